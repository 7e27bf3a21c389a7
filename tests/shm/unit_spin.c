/* SPDX-License-Identifier: MIT */
/* Cases of how waiters learn to poll, one a function; all times are given. Runs under ASan and
 * UBSan. */
#include "stage.h"
#include "vk_spin.h"
#include "vk_wake.c"

enum { MAX_NS = 100000, SOON_NS = 250000 };

static struct vk_spin polling(void)
{
	return (struct vk_spin){ .max_ns = MAX_NS };
}

static struct vk_spin asleep(void)
{
	struct vk_spin spin = polling();

	while (vk_spin_pays(&spin))
		vk_spin_missed(&spin);
	return spin;
}

/* How many such sleeps it takes until polling is tried again; more than most: 0. */
static int sleeps(struct vk_spin *spin, int64_t waited_ns, int most)
{
	for (int count = 1; count <= most; count++) {
		vk_spin_slept(spin, waited_ns);
		if (vk_spin_pays(spin))
			return count;
	}
	return 0;
}

static int misses(struct vk_spin *spin)
{
	int count = 0;

	for (; vk_spin_pays(spin); count++)
		vk_spin_missed(spin);
	return count;
}

static void a_poll_is_as_long_as_two_wakes_and_at_least_what_is_asked(void)
{
	static const int64_t rows[][3] = {
		{ 20000, 0, 20000 }, /* not known */
		{ 20000, 5000, 20000 }, /* a wake that costs little changes nothing */
		{ 20000, 50000, 100000 },    { 20000, 5000000, VK_SPIN_MOST_NS },
		{ 1000000, 50000, 1000000 }, { 0, 50000, 0 }, /* never */
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		must(vk_spin_bound(rows[i][0], rows[i][1]) == rows[i][2]);
}

static void who_has_no_core_to_spare_never_polls(void)
{
	struct vk_spin spin = { 0 };

	must(!vk_spin_pays(&spin));
	must(!sleeps(&spin, 0, 1000) && !sleeps(&spin, 1000, 1000));
}

static void polling_in_vain_stops_soon(void)
{
	struct vk_spin spin = polling();

	must(misses(&spin) == VK_SPIN_VAIN);
}

static void polling_goes_on_while_it_is_paid_for(void)
{
	struct vk_spin cheap = { .max_ns = VK_SPIN_LEAST_NS }, dear = polling();
	int rounds = 0;

	for (int i = 0; i < 1000; i++) { /* one in four, where polls are short */
		must(vk_spin_pays(&cheap));
		vk_spin_hit(&cheap);
		for (int k = 0; k < 3; k++)
			vk_spin_missed(&cheap);
	}
	for (; vk_spin_pays(&dear); rounds++) { /* not one in two, where they are long */
		vk_spin_hit(&dear);
		vk_spin_missed(&dear);
	}
	must(rounds > VK_SPIN_VAIN && rounds < 1000);
}

static void sleeps_that_end_late_never_bring_polling_back(void)
{
	struct vk_spin spin = asleep();

	must(!sleeps(&spin, VK_SPIN_SOON * MAX_NS + 1, 10000));
	must(!sleeps(&spin, 1000000, 10000));
}

static void sleeps_that_end_soon_bring_it_back(void)
{
	struct vk_spin spin = asleep();

	must(sleeps(&spin, SOON_NS, 1000) == VK_SPIN_ENOUGH);
	must(misses(&spin) == VK_SPIN_TRIES);
}

static void late_sleeps_between_do_not_matter(void)
{
	struct vk_spin spin = asleep();
	int count = 0;

	for (; !vk_spin_pays(&spin) && count < 1000; count++) {
		vk_spin_slept(&spin, SOON_NS);
		if (!vk_spin_pays(&spin))
			vk_spin_slept(&spin, 1000000);
	}
	must(count == VK_SPIN_ENOUGH);
}

static void parties_with_other_clocks_try_at_other_times(void)
{
	int seen[VK_SPIN_ENOUGH] = { 0 };

	for (int i = 0; i < VK_SPIN_ENOUGH; i++) {
		struct vk_spin spin = asleep();

		seen[sleeps(&spin, SOON_NS + i, 1000) - VK_SPIN_ENOUGH]++;
	}
	for (int i = 0; i < VK_SPIN_ENOUGH; i++)
		must(seen[i] == 1);
}

static void tries_in_vain_become_rare_until_one_pays(void)
{
	static const int expected[] = { 8, 16, 32, 64, 64, 64 };
	struct vk_spin spin = asleep();

	for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
		must(sleeps(&spin, SOON_NS, 1000) == expected[i]);
		misses(&spin);
	}
	must(sleeps(&spin, SOON_NS, 1000) == VK_SPIN_ENOUGH_MAX);
	for (int i = 0; i < 100; i++)
		vk_spin_hit(&spin);
	must(misses(&spin) == VK_SPIN_VAIN);
	must(sleeps(&spin, SOON_NS, 1000) == VK_SPIN_ENOUGH);
}

/* Each answers the other; who sleeps takes a wake, 60 µs, longer than who polls. */
static void two_that_sleep_come_to_poll(void)
{
	struct vk_spin spins[2] = { asleep(), asleep() };
	int trips = 0;

	for (; trips < 100000 && spins[0].vain_ns + spins[1].vain_ns; trips++) {
		int awake[2] = { vk_spin_pays(&spins[0]), vk_spin_pays(&spins[1]) };

		for (int i = 0; i < 2; i++) {
			int64_t waited_ns = 45000 + (awake[!i] ? 0 : 60000);

			if (awake[i] && waited_ns < MAX_NS)
				vk_spin_hit(&spins[i]);
			else if (awake[i])
				vk_spin_missed(&spins[i]);
			else
				vk_spin_slept(&spins[i], waited_ns + 60000 + trips % 997);
		}
	}
	must(trips < 100000);
}

static int never(void *looks)
{
	++*(int *)looks;
	return 0;
}

static int at_once(void *looks)
{
	++*(int *)looks;
	return 1;
}

static void a_poll_learns_from_what_it_saw(void)
{
	struct vk_spin spin = polling();
	int looks = 0;

	must(!vk_spin_until(&spin, never, &looks) && looks >= VK_SPIN_LOOKS);
	must(spin.vain_ns == MAX_NS);
	must(vk_spin_until(&spin, at_once, &looks) && spin.vain_ns == MAX_NS - VK_SPIN_PAID_NS);
	spin = asleep();
	looks = 0;
	must(!vk_spin_until(&spin, at_once, &looks) && !looks);
}

static void a_wake_costs_what_most_cost(void)
{
	struct vk_wake wake = { 0 };

	vk_wake_learn(&wake, 57000);
	must(wake.cost_ns == 57000);
	for (int i = 0; i < 200; i++)
		vk_wake_learn(&wake, 5000);
	must(wake.cost_ns >= 5000 && wake.cost_ns < 5010);
	vk_wake_learn(&wake, 3000000); /* somebody else had the core */
	must(wake.cost_ns < 11000);
	for (int i = 0; i < 1000; i++)
		vk_wake_learn(&wake, INT64_MAX);
	must(wake.cost_ns <= VK_WAKE_MOST_NS);
}

static void a_timer_tells_it(void)
{
	struct vk_wake wake = { .timer = -1 };

	must(!open_timer(&wake, PERIOD_NS, 0));
	for (int i = 0; i < 10000 && !wake.cost_ns; i++)
		vk_wake_rang(&wake, vk_spin_clock());
	must(wake.cost_ns > 0);
	vk_wake_close(&wake);
	must(wake.timer == -1);
	must(vk_wake_bound() >= VK_SPIN_LEAST_NS && vk_wake_bound() <= VK_SPIN_MOST_NS);
	must(vk_wake_bound() == vk_wake_bound());
}

int main(void)
{
	a_poll_is_as_long_as_two_wakes_and_at_least_what_is_asked();
	who_has_no_core_to_spare_never_polls();
	polling_in_vain_stops_soon();
	polling_goes_on_while_it_is_paid_for();
	sleeps_that_end_late_never_bring_polling_back();
	sleeps_that_end_soon_bring_it_back();
	late_sleeps_between_do_not_matter();
	parties_with_other_clocks_try_at_other_times();
	tries_in_vain_become_rare_until_one_pays();
	two_that_sleep_come_to_poll();
	a_poll_learns_from_what_it_saw();
	a_wake_costs_what_most_cost();
	a_timer_tells_it();
	return 0;
}
