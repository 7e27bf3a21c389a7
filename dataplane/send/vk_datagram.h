/* SPDX-License-Identifier: MIT */
#ifndef VK_DATAGRAM_H
#define VK_DATAGRAM_H
/* vk_datagram.h: the datagram under construction, written straight into the path's memory. What it
 * carries is noted, so that an acknowledgement or a loss finds the records again.
 */
#include "vk_run.h"

enum vk_datagram_const {
	/* In front of the payload of every outer frame. */
	VK_OUTER_SIZE = VK_HEADER_SIZE + sizeof(struct vk_ext_session),
};

/* One inner frame to be: header fields in host order, extensions by `present`. */
struct vk_part {
	struct vk_frame frame; /* type, flags, priority, stream, correlation, sequence, ... */
	const uint8_t *payload;
	uint32_t size;
	uint32_t peer;
	uint32_t class;
	struct vk_sent_run content; /* kind VK_CONTENT_NONE: nobody waits for an answer */
	uint8_t quiet; /* the peer need not acknowledge it */
	uint8_t forced; /* goes though the window is full */
	uint8_t stays; /* the payload lies in a ring: nobody writes there before the next flush */
	uint8_t shared; /* leaves room that the next part, cut to it, will fill */
};

/* vk_datagram_add appends a part. alone: nothing else is waiting that could share its datagram.
 * Returns 1, or 0 when it cannot go now: run->refused says why (enum vk_blocked). Assumes that the
 * part fits a datagram. */
int vk_datagram_add(struct vk_run *run, const struct vk_part *part, int alone);

/* vk_datagram_row sends up to count shards of a message, each alone in a datagram: the part, and
 * those behind it that go on where the one before them ends. Returns how many; 0: what
 * vk_datagram_add says holds. */
uint32_t vk_datagram_row(struct vk_run *run, const struct vk_part *part, uint32_t count);

/* vk_datagram_carry notes that the open datagram carries an entry of a ring; 0 = it cannot be noted
 * there. */
int vk_datagram_carry(struct vk_datagram *open, uint32_t slot, uint32_t ring, uint32_t entry);

/* vk_datagram_room returns how many bytes of payload a part may have to share the datagram that is
 * open; 0: it cannot. */
uint32_t vk_datagram_room(const struct vk_run *run, const struct vk_part *part);

/* vk_datagram_close commits the open datagram, if any. */
void vk_datagram_close(struct vk_run *run);

/* vk_part_overhead returns the bytes a part needs besides its payload, when alone. */
static inline uint32_t vk_part_overhead(const struct vk_frame *frame)
{
	uint32_t bytes = VK_OUTER_SIZE;

	if (frame->present & 1u << VK_EXT_SEQ)
		bytes += sizeof(struct vk_ext_seq);
	if (frame->present & 1u << VK_EXT_SHARD)
		bytes += sizeof(struct vk_ext_shard);
	if (frame->present & 1u << VK_EXT_TIME)
		bytes += sizeof(struct vk_ext_time);
	return bytes;
}
#endif
