/* SPDX-License-Identifier: MIT */
#include "vk_hystart.h"

#include "vk_controller.h"

enum { NS_PER_US = 1000 };

void vk_hystart_init(struct vk_hystart *hystart)
{
	*hystart = (struct vk_hystart){ .css_baseline_ns = UINT64_MAX };
}

uint64_t vk_hystart_threshold_ns(uint64_t last_rtt_ns, uint64_t base_ns)
{
	uint64_t least = vk_min(VK_HYSTART_MIN_RTT_THRESH_US * (uint64_t)NS_PER_US,
				vk_max(VK_HYSTART_NOISE_US * (uint64_t)NS_PER_US, base_ns));

	/* "RttThresh = max(MIN_RTT_THRESH, min(lastRoundMinRTT / MIN_RTT_DIVISOR,
	 * MAX_RTT_THRESH))" */
	return vk_max(least, vk_min(last_rtt_ns / VK_HYSTART_MIN_RTT_DIVISOR,
				    VK_HYSTART_MAX_RTT_THRESH_US * (uint64_t)NS_PER_US));
}

uint32_t vk_hystart_acked(struct vk_hystart *hystart, const struct vk_round *round,
			  uint64_t base_ns)
{
	int known = round->samples >= VK_HYSTART_RTT_SAMPLES;

	if (hystart->done)
		return 1;
	if (hystart->css_baseline_ns == UINT64_MAX) {
		/* "if (rttSampleCount >= N_RTT_SAMPLE AND currentRoundMinRTT != infinity AND
		 * lastRoundMinRTT != infinity) [...] if (currentRoundMinRTT >= (lastRoundMinRTT +
		 * RttThresh)): cssBaselineMinRtt = currentRoundMinRTT, exit slow start and enter
		 * CSS" */
		if (known && round->last_rtt_ns != UINT64_MAX &&
		    round->rtt_ns >= round->last_rtt_ns +
					     vk_hystart_threshold_ns(round->last_rtt_ns, base_ns)) {
			hystart->css_baseline_ns = round->rtt_ns;
			hystart->css_rounds = 0;
			return VK_HYSTART_CSS_GROWTH_DIVISOR;
		}
		return 1;
	}
	/* "CSS lasts at most CSS_ROUNDS rounds. If the transition into CSS happens in the middle
	 * of a round, that partial round counts towards the limit." */
	if (round->ended && ++hystart->css_rounds >= VK_HYSTART_CSS_ROUNDS) {
		hystart->done = 1;
		return 0;
	}
	/* "if (currentRoundMinRTT < cssBaselineMinRtt): cssBaselineMinRtt = infinity, resume slow
	 * start including HyStart++" */
	if (known && round->rtt_ns < hystart->css_baseline_ns) {
		hystart->css_baseline_ns = UINT64_MAX;
		return 1;
	}
	return VK_HYSTART_CSS_GROWTH_DIVISOR;
}
