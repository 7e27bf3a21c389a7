/* SPDX-License-Identifier: MIT */
#ifndef VK_PACER_H
#define VK_PACER_H
/* vk_pacer.h: when a session's next packets may leave. A token bucket in bytes: while it has
 * anything a sender may go on, beyond it if its batch is larger, and the debt is waited for. Once
 * empty it opens again only when there is enough for a batch, so that segmentation offload has
 * whole ones to work on and timers are few. Time is an argument.
 *
 * Idle time earns no more than a burst. But who was made to wait and comes late, because others had
 * the core, gets what it waited for: a worker that is held up for 500 us now and then would
 * otherwise send a third less than its rate, and a controller that measures what was delivered
 * would take that for the path. Over any time no more leaves than the rate and one burst.
 */
#ifndef VK_CDEF
#include <stdint.h>
#endif

enum vk_pacer_const {
	VK_PACER_BURST_DATAGRAMS = 10, /* RFC 9002, 7.7: no more than the initial window at once */
	VK_PACER_BURST_US =
		200, /* ... or what flows in this time: RFC 9002 was not for 10 Gbit/s */
	VK_PACER_BURST_MAX = 262144, /* bytes: four sends with segmentation offload */
	VK_PACER_DEBT_MAX = 131072, /* bytes that critical and system make others wait for */
	VK_PACER_BATCH_US = 100, /* what flows in this time is a batch worth waking up for */
	VK_PACER_LATE_US = 4000, /* so late is a worker that waited for a slice of somebody else */
	VK_PACER_SHIFT = 16, /* credit counts 2^-16 bytes */
};

struct vk_pacer {
	uint64_t rate; /* bytes/s; 0 = unpaced */
	uint64_t per_ns; /* bytes, fixed point 2^-32 */
	int64_t credit; /* fixed point 2^-16 bytes, at at_ns; negative = debt */
	uint64_t at_ns;
	uint32_t datagram_size;
	uint32_t burst; /* bytes the bucket holds */
	uint32_t batch; /* bytes it needs to open again */
	uint32_t empty; /* it was emptied and has not opened since */
	uint32_t late; /* bytes it holds beyond the burst while somebody waits for it */
	uint32_t waited; /* somebody waits for it */
};

#ifndef VK_CDEF
/* vk_pacer_init makes an unpaced one with datagrams of some size. */
static inline void vk_pacer_init(struct vk_pacer *pacer, uint32_t datagram_size, uint64_t now_ns)
{
	*pacer = (struct vk_pacer){ .at_ns = now_ns, .datagram_size = datagram_size };
}

/* vk_pacer_credit returns the credit at a time, in 2^-16 bytes. */
static inline int64_t vk_pacer_credit(const struct vk_pacer *pacer, uint64_t now_ns)
{
	int64_t full = ((int64_t)pacer->burst + (pacer->waited ? pacer->late : 0))
		       << VK_PACER_SHIFT;
	int64_t lacking = full - pacer->credit;
	unsigned __int128 earned;

	if (now_ns <= pacer->at_ns)
		return pacer->credit;
	earned = (unsigned __int128)(now_ns - pacer->at_ns) * pacer->per_ns >>
		 (32 - VK_PACER_SHIFT);
	if (lacking <= 0 || earned >= (uint64_t)lacking)
		return full;
	return pacer->credit + (int64_t)earned;
}

/* vk_pacer_room returns the bytes that may leave now; more than 0 lets a batch go on beyond, less
 * is what was spent beyond. */
static inline int64_t vk_pacer_room(const struct vk_pacer *pacer, uint64_t now_ns)
{
	int64_t room;

	if (!pacer->rate)
		return INT64_MAX;
	room = vk_pacer_credit(pacer, now_ns) >> VK_PACER_SHIFT;
	return pacer->empty && room < (int64_t)pacer->batch && room > 0 ? 0 : room;
}

/* vk_pacer_ready says whether anything may leave now. */
static inline int vk_pacer_ready(const struct vk_pacer *pacer, uint64_t now_ns)
{
	return vk_pacer_room(pacer, now_ns) > 0;
}

/* vk_pacer_next_ns returns when something may leave, as now_ns counts; 0 = at any time. */
static inline uint64_t vk_pacer_next_ns(const struct vk_pacer *pacer)
{
	uint64_t wanted = pacer->empty ? pacer->batch : 1, lacking;

	if (!pacer->rate || pacer->credit >= (int64_t)(wanted << VK_PACER_SHIFT))
		return 0;
	lacking = (wanted << VK_PACER_SHIFT) - (uint64_t)pacer->credit;
	/* Rounded up, and a debt beyond 2^47 bytes would be none of ours. */
	return pacer->at_ns +
	       ((lacking << (32 - VK_PACER_SHIFT)) + pacer->per_ns - 1) / pacer->per_ns;
}

/* vk_pacer_spend takes bytes that left. */
static inline void vk_pacer_spend(struct vk_pacer *pacer, uint64_t bytes, uint64_t now_ns)
{
	int64_t credit = vk_pacer_credit(pacer, now_ns), one = 1 << VK_PACER_SHIFT;
	/* What may leave although it is closed does not open it. */
	int closed = pacer->empty && credit < (int64_t)pacer->batch * one;

	if (!pacer->rate)
		return;
	pacer->credit = credit - (int64_t)bytes * one;
	if (pacer->credit < -(int64_t)VK_PACER_DEBT_MAX * one)
		pacer->credit = -(int64_t)VK_PACER_DEBT_MAX * one;
	pacer->at_ns = now_ns > pacer->at_ns ? now_ns : pacer->at_ns;
	pacer->empty = closed || pacer->credit < one;
}

/* vk_pacer_wait says, whenever a sender has done what it could, whether this keeps something from
 * leaving. */
static inline void vk_pacer_wait(struct vk_pacer *pacer, int waited, uint64_t now_ns)
{
	if (!pacer->rate || !!waited == (int)pacer->waited)
		return;
	pacer->credit = vk_pacer_credit(pacer, now_ns);
	pacer->at_ns = now_ns > pacer->at_ns ? now_ns : pacer->at_ns;
	pacer->waited = !!waited;
}

/* vk_pacer_rate sets the rate in bytes/s from now on, 0 = unpaced; what was spent stays spent. */
static inline void vk_pacer_rate(struct vk_pacer *pacer, uint64_t rate, uint64_t now_ns)
{
	uint64_t most = (uint64_t)VK_PACER_BURST_DATAGRAMS * pacer->datagram_size, burst, batch;
	int paced = pacer->rate != 0;

	if (rate > 1ull << 40)
		rate = 1ull << 40; /* 8.8 Tbit/s: nothing overflows below */
	if (rate == pacer->rate)
		return;
	if (paced)
		pacer->credit = vk_pacer_credit(pacer, now_ns);
	pacer->at_ns = now_ns > pacer->at_ns ? now_ns : pacer->at_ns;
	pacer->rate = rate;
	/* 2^62 / 10^9, so that bytes/s become bytes/ns in 2^-32. */
	pacer->per_ns = (uint64_t)((unsigned __int128)rate * 4611686018u >> 30);
	burst = rate * VK_PACER_BURST_US / 1000000;
	burst = burst < most ? most : burst;
	pacer->burst = (uint32_t)(burst > VK_PACER_BURST_MAX ? VK_PACER_BURST_MAX : burst);
	most = rate * VK_PACER_LATE_US / 1000000;
	pacer->late = (uint32_t)(most > UINT32_MAX ? UINT32_MAX : most);
	batch = rate * VK_PACER_BATCH_US / 1000000;
	batch = batch < pacer->datagram_size ? pacer->datagram_size : batch;
	pacer->batch = (uint32_t)(batch > pacer->burst / 2 ? pacer->burst / 2 : batch);
	if (!paced)
		pacer->credit = (int64_t)pacer->burst << VK_PACER_SHIFT;
}
#endif
#endif
