/* SPDX-License-Identifier: MIT */
#ifndef VK_WINDOW_H
#define VK_WINDOW_H
/* vk_window.h: how far the sender of a stream may be ahead of its reader. Sans-IO, integers only,
 * time is an argument (ns, never going back). Bytes are cost: payload + VK_MESSAGE_COST a message.
 *
 *   none      no window: the class is policed, or loses what does not fit
 *   fixed     one size
 *   adaptive  about twice what is consumed in a round trip: doubled when it was used up within two
 *             of them, and slowly given back when it was not
 *
 * Limits only grow; a window that shrinks says nothing until its reader has caught up.
 */
#ifndef VK_CDEF
#include <stdint.h>
#endif

enum vk_window_kind {
	VK_WINDOW_NONE = 0,
	VK_WINDOW_FIXED = 1,
	VK_WINDOW_ADAPTIVE = 2,
};

enum vk_window_const {
	VK_WINDOW_GROWTH = 2, /* times what is consumed in a round; and the largest step */
	VK_WINDOW_SHRINK = 8, /* share of what is too much that a span gives back */
	VK_WINDOW_ROUNDS = 2, /* a span: it is the window's measure */
	VK_WINDOW_TELL = 4, /* share of the window that a limit moves by to be worth a frame */
	/* Applications are woken, read in batches and report then: on the shortest paths that, and
	 * not the wire, is the round. */
	VK_WINDOW_ROUND_NS_MIN = 1000000,
};

/* What holds for all streams of a class. */
struct vk_window_rule {
	uint32_t kind; /* enum vk_window_kind */
	uint32_t pad;
	uint64_t min; /* bytes; the size in the beginning */
	uint64_t max; /* bytes; of a fixed one, too */
};

/* One stream's. */
struct vk_window {
	uint64_t size; /* bytes */
	uint64_t consumed; /* when the span began */
	uint64_t span_ns; /* when it did */
};

/* vk_window_init begins with what a rule gives everybody, of a stream consumed so far. */
void vk_window_init(struct vk_window *window, const struct vk_window_rule *rule, uint64_t consumed,
		    uint64_t now_ns);

/* vk_window_consumed notes what the reader has taken in all, and adapts. A rule may change between
 * two calls. */
void vk_window_consumed(struct vk_window *window, const struct vk_window_rule *rule,
			uint64_t consumed, uint64_t rtt_ns, uint64_t now_ns);

#ifndef VK_CDEF
/* vk_window_limit returns what may be sent in all, of which `base` takes no room any more. */
static inline uint64_t vk_window_limit(const struct vk_window *window, uint64_t base)
{
	return base + window->size;
}
#endif
#endif
