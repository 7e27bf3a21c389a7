/* SPDX-License-Identifier: MIT */
#ifndef VK_OUT_H
#define VK_OUT_H
/* vk_out.h: a record of an application's ring on its way out: the frames that say it.
 */
#include "vk_datagram.h"

/* Who a record is from, what it says. */
struct vk_out {
	struct vk_flow *flow;
	const struct vk_message *message;
	const uint8_t *payload;
	uint32_t size;
	uint32_t slot;
	uint32_t ring;
};

/* vk_out_cost returns what a message of so many bytes takes from its stream's credit. */
static inline uint64_t vk_out_cost(uint32_t size)
{
	return (uint64_t)size + VK_MESSAGE_COST;
}

/* vk_out_flying notes that another packet carries an entry. */
static inline void vk_out_flying(struct vk_entry *entry)
{
	entry->state = VK_ENTRY_FLYING;
	entry->copies++;
	entry->again = 1;
}

/* vk_out_body returns where the body of the record at a position of a ring lies. */
static inline const uint8_t *vk_out_body(const struct vk_run *run, uint32_t slot, uint32_t ring,
					 uint64_t at)
{
	const struct vk_rx *in = &run->slots[slot].in[ring];

	return in->data + (at & (in->capacity - 1)) + sizeof(struct vk_record);
}

/* vk_out_read reads an entry's record again; 0 when its flow is gone. */
int vk_out_read(struct vk_run *run, uint32_t slot, uint32_t ring, const struct vk_entry *entry,
		struct vk_message *message, struct vk_out *out);

/* vk_out_part makes the frame of a whole message; of best effort the entry means nothing. */
struct vk_part vk_out_part(struct vk_run *run, const struct vk_out *out, uint32_t entry, int again);

/* vk_out_fits says whether a part goes into one packet of its path. */
int vk_out_fits(const struct vk_run *run, const struct vk_part *part);

/* vk_out_alone says whether any message of size bytes goes into one packet of a flow's path. */
int vk_out_alone(const struct vk_run *run, const struct vk_flow *flow, uint32_t size);

/* vk_out_affordable says whether a flow's credit pays for a cost. */
int vk_out_affordable(struct vk_run *run, const struct vk_flow *flow, uint64_t cost);

/* vk_out_sent counts messages that are on their way for the first time. */
void vk_out_sent(struct vk_run *run, uint32_t slot, uint32_t ring, uint32_t messages,
		 uint64_t bytes);

/* vk_out_late leaves a log out whose lifetime is over before it went; 0 = it is worth sending. */
int vk_out_late(struct vk_run *run, const struct vk_out *out);

/* vk_out_count: the message is on its way for the first time, its cost is spent. Which of the two
 * sums holds is told by the sequence's last bit, so that one store changes both (a worker may die
 * here). */
void vk_out_count(struct vk_run *run, const struct vk_out *out);

/* vk_out_open and vk_out_close send STREAM_OPEN and STREAM_CLOSE; forced: though the window is
 * full. 0 = not now (run->refused). */
int vk_out_open(struct vk_run *run, const struct vk_out *out, uint32_t entry, int forced);
int vk_out_close(struct vk_run *run, const struct vk_out *out, uint32_t entry, int forced);

/* vk_out_shard makes a shard of a message, without its bytes; *chunk: how many of them fit one. */
struct vk_part vk_out_shard(struct vk_run *run, const struct vk_out *out, uint32_t number,
			    int again, uint32_t *chunk);

/* vk_out_whole returns how many of the next bytes of a message fill whole datagrams, what is left
 * of the open one first: about so many, and not less (up) or not more. */
uint64_t vk_out_whole(struct vk_run *run, const struct vk_out *out, uint32_t number, uint64_t bytes,
		      int up);

/* vk_out_shards sends bytes [begin, end) in as few shards as it takes; returns where it stopped. */
uint32_t vk_out_shards(struct vk_run *run, const struct vk_out *out, uint32_t number,
		       uint32_t begin, uint32_t end, int again, int forced);
#endif
