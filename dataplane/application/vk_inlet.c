/* SPDX-License-Identifier: MIT */
#include "vk_inlet.h"

#include <errno.h>
#include <string.h>

static uint64_t untold(const struct vk_inlet *inlet)
{
	return inlet->taken.cost - inlet->reported;
}

static void list(struct vk_client *client, struct vk_inlet *inlet)
{
	inlet->next = client->young;
	inlet->link = &client->young;
	if (inlet->next)
		inlet->next->link = &inlet->next;
	client->young = inlet;
}

void vk_inlet_forget(struct vk_client *client, struct vk_inlet *inlet)
{
	uint64_t cost = untold(inlet);

	if (!inlet->link)
		return;
	*inlet->link = inlet->next;
	if (inlet->next)
		inlet->next->link = inlet->link;
	inlet->link = NULL;
	client->untold -= cost < client->untold ? cost : client->untold;
}

/* put writes a report, for the next vk_client_alert. Returns like vk_inlet_report. */
static int put(struct vk_client *client, struct vk_inlet *inlet)
{
	struct vk_tx *tx = &client->tx[VK_CLASS_CONTROL];
	uint8_t *body;

	if (vk_client_gone(client))
		return -ESHUTDOWN;
	if (!tx->capacity)
		return -EACCES;
	body = vk_tx_reserve(tx, sizeof inlet->taken);
	if (!body)
		return vk_tx_room(tx) < 0 ? -EPROTO : -EAGAIN;
	memcpy(body, &inlet->taken, sizeof inlet->taken);
	vk_tx_commit(tx, sizeof inlet->taken, VK_RECORD_CONSUMED);
	vk_inlet_forget(client, inlet);
	inlet->reported = inlet->taken.cost;
	return 0;
}

int vk_inlet_report(struct vk_client *client, struct vk_inlet *inlet)
{
	int error;

	if (!inlet->windowed || !untold(inlet))
		return 0;
	error = put(client, inlet);
	if (!error)
		vk_client_alert(client, VK_CLASS_CONTROL);
	return error;
}

static int report_young(struct vk_client *client)
{
	int error = 0;

	while (client->young && !error)
		error = put(client, client->young);
	vk_client_alert(client, VK_CLASS_CONTROL);
	return error;
}

/* taken_young counts cost that was taken of a stream of which little was reported. */
static int taken_young(struct vk_client *client, struct vk_inlet *inlet, uint64_t cost)
{
	if (!inlet->windowed)
		return 0;
	if (!inlet->link) {
		list(client, inlet);
		cost = untold(inlet);
	}
	client->untold += cost;
	return client->untold < VK_INLET_REPORT ? 0 : report_young(client);
}

int vk_inlet_taken(struct vk_client *client, struct vk_inlet *inlet, uint64_t bytes, uint32_t count)
{
	uint64_t cost = bytes + (uint64_t)count * VK_MESSAGE_COST;

	inlet->taken.cost += cost;
	if (inlet->reported < VK_INLET_YOUNG)
		return taken_young(client, inlet, cost);
	return untold(inlet) < VK_INLET_REPORT ? 0 : vk_inlet_report(client, inlet);
}

int vk_inlet_idle(struct vk_client *client, struct vk_inlet *inlet)
{
	if (inlet->reported && untold(inlet) < VK_INLET_REPORT_IDLE)
		return 0;
	return vk_inlet_report(client, inlet);
}

int vk_inlet_pay(struct vk_client *client, struct vk_inlet *inlet)
{
	int error = vk_inlet_report(client, inlet);

	return error || client->untold < VK_INLET_REPORT ? error : report_young(client);
}
