/* SPDX-License-Identifier: MIT */
#include "vk_sent.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct vk_sent_packet) == 128, "a packet is two cache lines");

static int grow(struct vk_sent *sent, uint64_t span)
{
	uint64_t size = sent->packets ? 2 * ((uint64_t)sent->mask + 1) : VK_SENT_MIN;
	struct vk_sent_packet *packets;

	while (size < span)
		size *= 2;
	if (size > VK_SENT_MAX)
		return 0;
	packets = calloc(size, sizeof *packets);
	if (!packets)
		return 0;
	for (uint64_t n = sent->oldest; n != sent->next; n++)
		packets[n & (size - 1)] = sent->packets[n & sent->mask];
	free(sent->packets);
	sent->packets = packets;
	sent->mask = (uint32_t)size - 1;
	return 1;
}

struct vk_sent_packet *vk_sent_put(struct vk_sent *sent, uint64_t number)
{
	if (sent->oldest == sent->next)
		sent->oldest = sent->next = number;
	if ((!sent->packets || number - sent->oldest > sent->mask) &&
	    !grow(sent, number - sent->oldest + 1))
		return NULL;
	while (sent->next <= number) {
		struct vk_sent_packet *packet = &sent->packets[sent->next++ & sent->mask];

		packet->state = VK_SENT_FREE; /* numbers in between went to what nobody answers */
		packet->flags = 0;
		packet->run_count = 0;
	}
	return &sent->packets[number & sent->mask];
}

int vk_sent_make_room(struct vk_sent *sent)
{
	uint64_t span = sent->issued - sent->oldest;

	while (span >= VK_SENT_MAX - VK_SENT_SPARE && sent->oldest != sent->next &&
	       sent->packets[sent->oldest & sent->mask].state != VK_SENT_FLYING) {
		sent->oldest++;
		span--;
	}
	if (sent->oldest == sent->next) /* the next begins anew */
		span = 0;
	return span < VK_SENT_MAX - VK_SENT_SPARE &&
	       ((sent->packets && span < sent->mask) || grow(sent, span + 2));
}

void vk_sent_settle(struct vk_sent *sent)
{
	while (sent->oldest != sent->next &&
	       sent->packets[sent->oldest & sent->mask].state == VK_SENT_FREE &&
	       !(sent->packets[sent->oldest & sent->mask].flags & VK_SENT_SKIPPED))
		sent->oldest++;
}

void vk_sent_free(struct vk_sent *sent)
{
	free(sent->packets);
	*sent = (struct vk_sent){ .loss_ns = UINT64_MAX };
}
