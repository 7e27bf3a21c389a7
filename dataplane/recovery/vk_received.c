/* SPDX-License-Identifier: MIT */
#include "vk_received.h"

#include "vk_frame.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

enum vk_arrival vk_received_find(const struct vk_received *received, uint64_t number)
{
	if (number < received->floor)
		return VK_ARRIVAL_OLD;
	for (uint32_t i = 0; i < received->range_count; i++) {
		if (number > received->ranges[i].last)
			return VK_ARRIVAL_NEW;
		if (number >= received->ranges[i].first)
			return VK_ARRIVAL_DUPLICATE;
	}
	return VK_ARRIVAL_NEW;
}

static void remove_range(struct vk_received *received, uint32_t at)
{
	received->range_count--;
	memmove(&received->ranges[at], &received->ranges[at + 1],
		(received->range_count - at) * sizeof received->ranges[0]);
}

static void insert_range(struct vk_received *received, uint32_t at, uint64_t number)
{
	if (received->range_count == VK_RECEIVED_RANGES) {
		/* RFC 9000, 13.2.3: "a receiver [...] limits the number of ACK Ranges it stores";
		 * what is forgotten must not be taken again. */
		if (at == received->range_count) { /* it is the lowest itself */
			received->floor = number + 1;
			return;
		}
		received->range_count--;
		received->floor = received->ranges[received->range_count].last + 1;
	}
	memmove(&received->ranges[at + 1], &received->ranges[at],
		(received->range_count - at) * sizeof received->ranges[0]);
	received->ranges[at] = (struct vk_range){ number, number };
	received->range_count++;
}

static void enter(struct vk_received *received, uint64_t number)
{
	struct vk_range *ranges = received->ranges;
	uint32_t at = 0;

	while (at < received->range_count && number < ranges[at].first)
		at++;
	/* ranges[at] is the first that ends before the number; ranges[at - 1] begins behind it. */
	if (at < received->range_count && ranges[at].last + 1 == number) {
		ranges[at].last = number;
		if (at && ranges[at - 1].first == number + 1) {
			ranges[at - 1].first = ranges[at].first;
			remove_range(received, at);
		}
	} else if (at && ranges[at - 1].first == number + 1) {
		ranges[at - 1].first = number;
	} else {
		insert_range(received, at, number);
	}
}

void vk_received_add(struct vk_received *received, uint64_t number, int eliciting, int ce,
		     uint64_t came_ns, uint64_t now_ns)
{
	struct vk_range *top = &received->ranges[0];
	int next = received->range_count && number == top->last + 1;
	int largest = !received->range_count || number > top->last;

	if (next)
		top->last = number;
	else
		enter(received, number);
	if (largest)
		received->largest_ns = came_ns;
	received->ce_count += ce != 0;
	if (!eliciting)
		return;
	if (!received->eliciting++)
		received->first_ns = now_ns;
	/* RFC 9000, 13.2.1: an ACK is sent at once for a packet that "has a packet number less than
	 * another ack-eliciting packet that has been received", or when there are missing packets
	 * between it and the largest; and for a mark. */
	if ((!next && received->range_count > 1) || !largest || ce)
		received->urgent = 1;
}

int vk_received_due(const struct vk_received *received, uint32_t every, uint64_t delay_ns,
		    uint64_t now_ns)
{
	return received->eliciting && (received->urgent || received->eliciting >= every ||
				       now_ns >= received->first_ns + delay_ns);
}

uint32_t vk_received_write(struct vk_received *received, uint32_t space, uint8_t *at, uint32_t room,
			   uint64_t now_ns)
{
	uint32_t fit =
		(room - (uint32_t)sizeof(struct vk_ack)) / (uint32_t)sizeof(struct vk_ack_range);
	uint32_t count = received->range_count < fit ? received->range_count : fit;
	uint8_t *range = at + sizeof(struct vk_ack);
	uint64_t largest = received->ranges[0].last, below = 0;

	if (count > VK_ACK_RANGES_MAX)
		count = VK_ACK_RANGES_MAX;
	memset(at, 0, sizeof(struct vk_ack));
	at[offsetof(struct vk_ack, space)] = (uint8_t)space;
	if (!count)
		return sizeof(struct vk_ack);
	at[offsetof(struct vk_ack, flags)] = VK_ACK_HAS_RANGES;
	at[offsetof(struct vk_ack, range_count)] = (uint8_t)count;
	vk_put32(at + offsetof(struct vk_ack, delay_us),
		 (uint32_t)((now_ns - received->largest_ns) / 1000));
	vk_put32(at + offsetof(struct vk_ack, largest_high), (uint32_t)(largest >> 32));
	vk_put32(at + offsetof(struct vk_ack, largest_low), (uint32_t)largest);
	vk_put32(at + offsetof(struct vk_ack, ce_count), received->ce_count);
	for (uint32_t i = 0; i < count; i++) {
		const struct vk_range *row = &received->ranges[i];
		uint64_t gap = i ? below - row->last - 1 : 0, length = row->last - row->first + 1;

		if (gap > UINT32_MAX) { /* what is left out is acknowledged by nobody */
			at[offsetof(struct vk_ack, range_count)] = (uint8_t)i;
			break;
		}
		vk_put32(range, (uint32_t)gap);
		vk_put32(range + 4, length > UINT32_MAX ? UINT32_MAX : (uint32_t)length);
		range += sizeof(struct vk_ack_range);
		below = row->first;
		if (length > UINT32_MAX) {
			at[offsetof(struct vk_ack, range_count)] = (uint8_t)(i + 1);
			break;
		}
	}
	received->eliciting = 0;
	received->urgent = 0;
	return (uint32_t)(range - at);
}

/* Whether the ranges stay at or above 0 and are apart from each other. */
static int ranges_ok(const struct vk_ack_view *view)
{
	uint64_t left = view->largest + 1; /* numbers below what was named so far */

	if (view->largest >> VK_NUMBER_BITS)
		return 0;
	for (uint32_t i = 0; i < view->range_count; i++) {
		uint64_t gap = vk_get32(view->ranges + i * sizeof(struct vk_ack_range));
		uint64_t length = vk_get32(view->ranges + i * sizeof(struct vk_ack_range) + 4);

		if ((i ? !gap : gap != 0) || !length || gap + length > left)
			return 0;
		left -= gap + length;
	}
	return 1;
}

int vk_ack_parse(struct vk_ack_view *view, const uint8_t *payload, uint32_t size)
{
	if (size < sizeof(struct vk_ack))
		return -EBADMSG;
	*view = (struct vk_ack_view){
		.space = payload[offsetof(struct vk_ack, space)],
		.flags = payload[offsetof(struct vk_ack, flags)],
		.range_count = payload[offsetof(struct vk_ack, range_count)],
		.credit_count = payload[offsetof(struct vk_ack, credit_count)],
		.delay_ns = (uint64_t)vk_get32(payload + offsetof(struct vk_ack, delay_us)) * 1000,
		.largest = vk_get64(payload + offsetof(struct vk_ack, largest_high)),
		.ce_count = vk_get32(payload + offsetof(struct vk_ack, ce_count)),
		.session_limit = vk_get64(payload + offsetof(struct vk_ack, session_limit_high)),
		.ranges = payload + sizeof(struct vk_ack),
	};
	view->credits = view->ranges + view->range_count * sizeof(struct vk_ack_range);
	if (view->space >= VK_SPACE_COUNT || view->range_count > VK_ACK_RANGES_MAX ||
	    view->credit_count > VK_ACK_CREDITS_MAX ||
	    size != sizeof(struct vk_ack) + view->range_count * sizeof(struct vk_ack_range) +
			    view->credit_count * sizeof(struct vk_ack_credit) ||
	    !(view->flags & VK_ACK_HAS_RANGES) != !view->range_count ||
	    (view->range_count && !ranges_ok(view)))
		return -EBADMSG;
	return 0;
}
