/* SPDX-License-Identifier: MIT */
#include "vk_mtu.h"

#include <string.h>

static const uint64_t ms_ns = 1000000; /* ns */

static uint32_t base_of(const struct vk_mtu *mtu)
{
	return mtu->max < VK_MTU_BASE_SIZE ? mtu->max : VK_MTU_BASE_SIZE;
}

/* What is small gets through when the size in use does not. */
static int is_large(const struct vk_mtu *mtu, uint32_t size)
{
	return size > (mtu->size > VK_MTU_BASE_SIZE ? VK_MTU_BASE_SIZE : VK_MTU_MIN_SIZE);
}

/* What was seen of the path says nothing against the size in use. */
static void trust(struct vk_mtu *mtu)
{
	mtu->bursts = 0;
	memset(mtu->streak, 0, sizeof mtu->streak);
}

/* Grades are of equal width, as many as max bytes need: 9 of 1 KiB, or 12 of 128 bytes. */
static void grade(struct vk_mtu *mtu)
{
	mtu->grain = 0;
	while (mtu->max >> mtu->grain >= VK_MTU_GRADES)
		mtu->grain++;
	memset(mtu->came_ns, 0, sizeof mtu->came_ns);
	mtu->came = mtu->suspect = 0;
	trust(mtu);
}

static uint32_t grade_of(const struct vk_mtu *mtu, uint32_t size)
{
	uint32_t grade = size >> mtu->grain;

	return grade < VK_MTU_GRADES ? grade : VK_MTU_GRADES - 1; /* sent before max became less */
}

void vk_mtu_init(struct vk_mtu *mtu, uint32_t max)
{
	*mtu = (struct vk_mtu){ .max = max, .ceiling = max };
	mtu->size = base_of(mtu);
	grade(mtu);
}

static void complete(struct vk_mtu *mtu, uint64_t now_ns)
{
	mtu->probe = 0;
	mtu->flying = 0;
	mtu->state = mtu->size < base_of(mtu) ? VK_MTU_ERROR : VK_MTU_COMPLETE;
	mtu->raise_ns =
		now_ns + ms_ns * (mtu->state == VK_MTU_ERROR ? VK_MTU_ERROR_MS : VK_MTU_RAISE_MS);
}

static void try_size(struct vk_mtu *mtu, uint32_t size)
{
	mtu->state = VK_MTU_SEARCHING;
	mtu->probe = size;
	mtu->tries = 0;
	mtu->flying = 0;
}

/* RFC 8899, 5.3.2 leaves the choice of sizes to us: the middle of what is left. */
static void go_on(struct vk_mtu *mtu, uint64_t now_ns)
{
	if (mtu->size == mtu->max || mtu->ceiling < mtu->size + VK_MTU_STEP)
		complete(mtu, now_ns);
	else if (mtu->ceiling == mtu->max)
		try_size(mtu, mtu->max);
	else
		try_size(mtu, (mtu->size + mtu->ceiling + 1) / 2);
}

static void search(struct vk_mtu *mtu)
{
	mtu->ceiling = mtu->max;
	if (mtu->size < mtu->max)
		try_size(mtu, mtu->size < base_of(mtu) ? base_of(mtu) : mtu->max);
}

int vk_mtu_bound(struct vk_mtu *mtu, uint32_t max)
{
	uint32_t before = mtu->size;

	if (max == mtu->max)
		return 0;
	mtu->max = mtu->ceiling = max;
	grade(mtu);
	if (mtu->size > max)
		mtu->size = max;
	if (mtu->state == VK_MTU_BASE)
		mtu->size = base_of(mtu);
	else if (mtu->state != VK_MTU_ERROR)
		search(mtu);
	if (mtu->probe > max || mtu->size == max) {
		mtu->probe = 0;
		mtu->flying = 0;
		mtu->state = VK_MTU_BASE;
	}
	return mtu->size != before;
}

void vk_mtu_sent(struct vk_mtu *mtu, uint32_t size, uint64_t now_ns)
{
	if (mtu->state == VK_MTU_SEARCHING || mtu->state == VK_MTU_CONFIRMING ||
	    mtu->size == mtu->max || size < mtu->size / 8 * 7)
		return;
	/* RFC 8899, 5.2: in Search Complete the PMTU_RAISE_TIMER brings the next search. */
	if (mtu->state == VK_MTU_BASE || now_ns >= mtu->raise_ns)
		search(mtu);
}

uint32_t vk_mtu_next(const struct vk_mtu *mtu)
{
	return mtu->flying ? 0 : mtu->probe;
}

void vk_mtu_probed(struct vk_mtu *mtu)
{
	mtu->flying = 1;
}

int vk_mtu_probe_acked(struct vk_mtu *mtu, uint32_t size, uint64_t now_ns)
{
	uint32_t before = mtu->size;

	/* One that was taken for lost may be late: it came all the same. */
	if (size < mtu->size || size > mtu->max || mtu->state == VK_MTU_BASE)
		return 0;
	if (size == mtu->size && mtu->state != VK_MTU_CONFIRMING)
		return 0;
	mtu->size = size;
	trust(mtu);
	if (mtu->ceiling < size)
		mtu->ceiling = mtu->max;
	if (mtu->state != VK_MTU_SEARCHING || mtu->probe <= size)
		go_on(mtu, now_ns);
	return size != before;
}

/* RFC 8899, 5.2: a black hole leads to the Base state; and from there to the Error state when the
 * base is too large. */
static void shrink(struct vk_mtu *mtu, uint64_t now_ns)
{
	uint32_t base = base_of(mtu);

	trust(mtu);
	if (mtu->size > base) {
		mtu->size = base;
		mtu->state = VK_MTU_BASE;
		mtu->probe = 0;
		mtu->flying = 0;
	} else {
		mtu->size = VK_MTU_MIN_SIZE;
		complete(mtu, now_ns);
	}
}

int vk_mtu_probe_lost(struct vk_mtu *mtu, uint32_t size, uint64_t now_ns)
{
	if (size != mtu->probe || !mtu->flying)
		return 0;
	mtu->flying = 0;
	/* RFC 8899, 5.1.2: MAX_PROBES "is the maximum value of the PROBE_COUNT counter". */
	if (++mtu->tries < VK_MTU_PROBES_MAX)
		return 0;
	if (mtu->state == VK_MTU_CONFIRMING) {
		shrink(mtu, now_ns);
		return 1;
	}
	mtu->ceiling = size - 1;
	if (mtu->size < base_of(mtu))
		complete(mtu, now_ns); /* it was the base that was tried */
	else
		go_on(mtu, now_ns);
	return 0;
}

void vk_mtu_acked(struct vk_mtu *mtu, uint32_t size, uint64_t sent_ns)
{
	uint32_t of;

	if (!is_large(mtu, size))
		return;
	of = grade_of(mtu, size);
	mtu->came |= (uint16_t)(1U << of);
	if (sent_ns > mtu->came_ns[of])
		mtu->came_ns[of] = sent_ns;
}

void vk_mtu_lost(struct vk_mtu *mtu, uint32_t size, uint64_t sent_ns)
{
	uint32_t of = grade_of(mtu, size);

	if (!is_large(mtu, size))
		return;
	for (uint32_t above = of + 1; above < VK_MTU_GRADES; above++) {
		if (sent_ns <= mtu->came_ns[above])
			return;
	}
	for (uint32_t below = of + 1; below-- && sent_ns > mtu->came_ns[below];)
		mtu->suspect |= (uint16_t)(1U << below);
}

void vk_mtu_settle(struct vk_mtu *mtu)
{
	if (mtu->came)
		memset(mtu->streak, 0, 32 - (size_t)__builtin_clz(mtu->came));
	if (mtu->came || mtu->suspect) {
		mtu->bursts = 0;
		for (uint32_t of = 0; of < VK_MTU_GRADES; of++) {
			if (mtu->suspect >> of & 1 && mtu->streak[of] < VK_MTU_BURSTS)
				mtu->streak[of]++;
			if (mtu->bursts < mtu->streak[of])
				mtu->bursts = mtu->streak[of];
		}
	}
	mtu->came = mtu->suspect = 0;
	if (mtu->bursts < VK_MTU_BURSTS || mtu->state == VK_MTU_CONFIRMING ||
	    mtu->size <= VK_MTU_MIN_SIZE)
		return;
	/* RFC 8899, 4.3: losses in a row are one of the signs of a black hole; receivers that have
	 * no room for a message do not acknowledge it either, so a probe has to confirm it. */
	try_size(mtu, mtu->size);
	mtu->state = VK_MTU_CONFIRMING;
}
