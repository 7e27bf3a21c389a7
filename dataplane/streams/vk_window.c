/* SPDX-License-Identifier: MIT */
#include "vk_window.h"

static uint64_t clamp(uint64_t size, const struct vk_window_rule *rule)
{
	if (size > rule->max)
		size = rule->max;
	return size < rule->min ? rule->min : size;
}

static void begin_span(struct vk_window *window, uint64_t consumed, uint64_t now_ns)
{
	window->consumed = consumed;
	window->span_ns = now_ns;
}

void vk_window_init(struct vk_window *window, const struct vk_window_rule *rule, uint64_t consumed,
		    uint64_t now_ns)
{
	window->size = rule->kind == VK_WINDOW_FIXED ? clamp(rule->max, rule) : rule->min;
	begin_span(window, consumed, now_ns);
}

/* What a window would be that is as large as its use asks for. */
static uint64_t wanted(uint64_t used, uint64_t round_ns, uint64_t took_ns)
{
	return (uint64_t)((unsigned __int128)used * VK_WINDOW_GROWTH * round_ns / took_ns);
}

void vk_window_consumed(struct vk_window *window, const struct vk_window_rule *rule,
			uint64_t consumed, uint64_t rtt_ns, uint64_t now_ns)
{
	uint64_t round_ns = rtt_ns > VK_WINDOW_ROUND_NS_MIN ? rtt_ns : VK_WINDOW_ROUND_NS_MIN;
	uint64_t used = consumed - window->consumed, took_ns = now_ns - window->span_ns, want;

	if (rule->kind != VK_WINDOW_ADAPTIVE) {
		vk_window_init(window, rule, consumed, now_ns);
		return;
	}
	window->size = clamp(window->size, rule);
	if (used >= window->size) {
		if (took_ns <= VK_WINDOW_ROUNDS * round_ns)
			window->size = clamp(window->size * VK_WINDOW_GROWTH, rule);
	} else if (took_ns > VK_WINDOW_ROUNDS * round_ns) {
		want = wanted(used, round_ns, took_ns);
		if (want < window->size)
			window->size = clamp(
				window->size - (window->size - want) / VK_WINDOW_SHRINK, rule);
	} else {
		return; /* the span goes on */
	}
	begin_span(window, consumed, now_ns);
}
