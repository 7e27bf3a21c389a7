/* SPDX-License-Identifier: MIT */
/* Very many sessions in one worker, sealed by AES-256-GCM. `sessions COUNT USED ROUNDS` installs
 * COUNT as a daemon does, by rows, keys and news, receives a frame of each of USED, and then ROUNDS
 * frames of any of these, drawn at random, in batches of 16. It prints lines of name and value,
 * times in ns of CPU, of many pieces the median; what went wrong ends it. Memory is bounded: see
 * MEMORY_MAX. */
#include "vk_aead.h"
#include "vk_engine.h"
#include "vk_idle.h"
#include "vk_intake.h"
#include "vk_pages.h"
#include "vk_peers.h"
#include "vk_row.h"
#include "vk_seat.h"
#include "vk_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum {
	BATCH = 16, /* frames of one of the lower classes that a worker takes at once */
	BATCHES = 64, /* made, before they are received */
	PAYLOAD = 64,
	FRAME_MAX = 256,
	USED_MAX = 250000,
	PIECE = BATCHES * BATCH, /* frames whose time is taken */
	PIECES_MAX = 4096,
	LINES_A_FRAME = 8, /* of its session, that receiving a frame reads */
	OTHERS = 64 << 20, /* bytes of them */
	FIND_ROUNDS = 2 << 20, /* until a table's lines are in the caches that will have them */
	MTU = 1500,
};

#ifdef __SANITIZE_ADDRESS__
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1 /* its shadow takes all the address space there is */
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static const uint64_t MEMORY_MAX = 8ull << 30; /* bytes of address space */
static const uint64_t STEP_NS = 1000000;

static struct {
	struct vk_run *run;
	struct vk_boot *boot;
	struct vk_state *state;
	struct vk_secrets *secrets;
	struct vk_path path;
	struct vk_rx_frame frames[PIECE];
	uint8_t data[PIECE][FRAME_MAX];
	uint32_t first; /* of `frames` that is received next */
	uint32_t count;
	uint64_t now_ns;
	uint64_t random;
	uint8_t sent[MTU + FRAME_MAX];
	uint64_t *numbers; /* of each peer's next packet */
	double pieces[PIECES_MAX]; /* ns a frame */
	uint32_t piece_count;
	uint8_t *others; /* what stands for sessions' lines */
} world = { .now_ns = 1000000000, .random = 1 };

static void fail(const char *why)
{
	fprintf(stderr, "%s\n", why);
	exit(1);
}

static void *map(size_t size)
{
	void *at = vk_pages_map(size);

	if (!at)
		fail("no memory");
	return at;
}

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
	return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

static double resident(void)
{
	long pages = 0, all;
	FILE *file = fopen("/proc/self/statm", "r");

	if (!file || fscanf(file, "%ld %ld", &all, &pages) != 2)
		fail("no /proc");
	fclose(file);
	return (double)pages * 4096;
}

static uint32_t any(uint32_t count)
{
	world.random = world.random * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(world.random >> 33) % count;
}

static void note(double spent)
{
	if (world.piece_count == PIECES_MAX)
		fail("too many rounds");
	world.pieces[world.piece_count++] = spent / PIECE;
}

static int compare(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

/* The median of what was noted, which is forgotten. */
static double median(void)
{
	uint32_t count = world.piece_count;

	if (!count)
		fail("too few rounds");
	qsort(world.pieces, count, sizeof *world.pieces, compare);
	world.piece_count = 0;
	return (world.pieces[(count - 1) / 2] + world.pieces[count / 2]) / 2;
}

/* ---- A path that hands out the frames that were made ---- */

static int rx(struct vk_path *path, uint32_t class, struct vk_rx_frame *frames, int max)
{
	uint32_t count = 0;

	(void)path;
	while (class == VK_CLASS_DATA && count < (uint32_t)max && world.first < world.count)
		frames[count++] = world.frames[world.first++];
	return (int)count;
}

static void rx_done(struct vk_path *path, uint32_t class)
{
	(void)path;
	(void)class;
}

static uint8_t *tx_reserve(struct vk_path *path, const struct vk_peer *peer, uint32_t class)
{
	(void)path;
	(void)peer;
	(void)class;
	return world.sent;
}

static void tx_commit(struct vk_path *path, uint32_t size, int paddable)
{
	(void)path;
	(void)size;
	(void)paddable;
}

static int tx_flush(struct vk_path *path)
{
	(void)path;
	return 0;
}

static const struct vk_path_ops ops = {
	.name = "made",
	.rx = rx,
	.rx_done = rx_done,
	.tx_reserve = tx_reserve,
	.tx_commit = tx_commit,
	.tx_flush = tx_flush,
};

/* ---- Sessions, and frames of them ---- */

static void address_of(uint32_t peer, uint8_t address[16])
{
	memset(address, 0, 16);
	address[0] = 10;
	address[1] = (uint8_t)(peer >> 16);
	address[2] = (uint8_t)(peer >> 8);
	address[3] = (uint8_t)peer;
}

static void secret_of(uint32_t peer, uint8_t secret[VK_SECRET_SIZE])
{
	memset(secret, 7, VK_SECRET_SIZE);
	memcpy(secret, &peer, sizeof peer);
}

static uint32_t session_of(uint32_t peer)
{
	return vk_seat_id(world.state->seat_keys, peer, 1 + peer % 1000);
}

static void install(uint32_t peer)
{
	struct vk_keys *keys = &world.secrets->keys[0][peer];
	struct vk_peer *row = &world.state->peers[peer];

	secret_of(peer, keys->open.secrets[0].bytes);
	secret_of(~peer, keys->seal.secrets[0].bytes);
	memset(keys->proofs, 1, sizeof keys->proofs);
	VK_STORE_RELEASE(&keys->session, session_of(peer));
	vk_row_begin(&row->sequence);
	row->state = VK_ROW_LIVE;
	row->family = 4;
	row->generation = 1;
	row->payload_max = MTU - 28;
	row->udp_port = VK_PORT;
	row->joined = 1;
	row->cipher = VK_CIPHER_AES_256_GCM;
	row->session = row->session_local = session_of(peer);
	address_of(peer, row->address);
	vk_row_end(&row->sequence);
	vk_peer_news(world.state, peer);
}

/* Makes a datagram of a peer that has nothing but its head. */
static void make_head(uint32_t peer)
{
	uint8_t *data = world.data[world.count];
	struct vk_rx_frame *to = &world.frames[world.count++];
	struct vk_frame frame = {
		.type = VK_PONG,
		.flags = VK_FLAG_ENC,
		.priority = vk_priority_lowest(VK_CLASS_DATA),
		.stream = VK_FIRST_DATA,
		.length = PAYLOAD,
	};

	vk_put_header(data, &frame, sizeof(struct vk_ext_session) / VK_EXT_WORD, 0);
	vk_put_session(data + VK_HEADER_SIZE, session_of(peer), 0, VK_SPACE_B, 0);
	*to = (struct vk_rx_frame){
		.data = data,
		.size = vk_frame_head(data) + PAYLOAD + VK_TAG_SIZE,
		.family = 4,
		.source_port = VK_PORT,
		.class = VK_CLASS_DATA,
	};
	address_of(peer, to->source);
}

/* Makes the frame with a number of a peer's that its worker would have sent. */
static void make_numbered(uint32_t peer, uint64_t number)
{
	uint8_t secret[VK_SECRET_SIZE], payload[PAYLOAD] = { 0 }, *data = world.data[world.count];
	struct vk_aead aead = { 0 };
	uint32_t head;

	make_head(peer);
	vk_put_session(data + VK_HEADER_SIZE, session_of(peer), 0, VK_SPACE_B, number);
	head = vk_frame_head(data);
	secret_of(peer, secret);
	if (vk_aead_init(&aead, VK_CIPHER_AES_256_GCM, secret, 1) ||
	    vk_aead_seal(&aead, VK_SPACE_B, number, data, head, payload, data + head, PAYLOAD))
		fail("sealing failed");
	vk_aead_free(&aead);
}

static void make_frame(uint32_t peer)
{
	make_numbered(peer, world.numbers[peer]++);
}

static uint64_t counted(uint32_t counter)
{
	return vk_count_row(world.run, VK_CLASS_DATA)[counter];
}

/* Receives what was made; returns what that took, without the acknowledgements. */
static double receive(void)
{
	double begun = now(), spent;

	while (world.first < world.count)
		if (vk_intake_all(world.run) < 0)
			fail("receiving failed");
	spent = now() - begun;
	world.first = world.count = 0;
	vk_session_end_turn(world.run);
	vk_session_send_all(world.run);
	return spent;
}

static void turn(uint64_t passed_ns)
{
	uint32_t kept;

	world.now_ns += passed_ns;
	world.state->daemon_heartbeat_ns = world.now_ns;
	if (vk_engine_turn(world.run, world.now_ns, world.now_ns, &kept) < 0)
		fail("a turn failed");
}

/* ---- What is measured ---- */

static void begin(uint32_t count)
{
	struct rlimit limit = { MEMORY_MAX, MEMORY_MAX };

	if (!SANITIZED && setrlimit(RLIMIT_AS, &limit))
		fail("no limit");
	world.run = map(sizeof *world.run);
	world.boot = map(sizeof *world.boot);
	world.state = map(sizeof *world.state);
	world.secrets = map(sizeof *world.secrets);
	world.numbers = map(count * sizeof *world.numbers);
	world.boot->state = world.state;
	world.boot->secrets = world.secrets;
	world.boot->work = map(sizeof *world.boot->work);
	world.boot->counters = map(sizeof *world.boot->counters);
	world.boot->port_count = 1;
	world.boot->ports[0].mtu = MTU;
	world.boot->control_fd = world.boot->python_fd = world.boot->cpu = -1;
	world.path.ops = &ops;
	world.run->rx[0] = world.run->tx[0] = &world.path;
	world.state->params = *vk_engine_params();
	for (uint32_t i = 0; i < VK_SEAT_KEYS; i++)
		world.state->seat_keys[i] = 0x9e3779b9u * (i + 1);
	if (vk_engine_start(world.run, world.boot, world.now_ns))
		fail("the worker does not start");
}

static void install_all(uint32_t count)
{
	double before = resident(), begun, rows_ns, taken_ns;

	begun = now();
	for (uint32_t i = 0; i < count; i++)
		install(i);
	rows_ns = now() - begun;
	begun = now();
	do
		turn(STEP_NS);
	while (world.run->peers_left || world.run->peer_epoch != world.state->peer_epoch);
	taken_ns = now() - begun;
	printf("rows_ns %.1f\ntaken_ns %.1f\ninstalled_bytes %.0f\n", rows_ns / count,
	       taken_ns / count, (resident() - before) / count);
}

/* Reads as much as receiving so many frames would of their sessions: what was found before is in a
 * cache only as far as that leaves it there. */
static void read_others(uint32_t frames)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < frames * LINES_A_FRAME; i++)
		sum += world.others[(size_t)any(OTHERS / VK_LINE) * VK_LINE];
	if (sum != frames * LINES_A_FRAME)
		fail("memory is not what it was");
}

static void find_made(const uint32_t *peers)
{
	uint32_t found[BATCH];

	for (uint32_t at = 0; at < world.count; at += BATCH) {
		uint32_t count = world.count - at < BATCH ? world.count - at : BATCH;

		vk_peers_find_batch(world.run, &world.frames[at], count, found);
		for (uint32_t k = 0; k < count; k++)
			if (found[k] != peers[at + k])
				fail("another peer was found");
	}
	world.count = 0;
}

/* Finds each once, by address and by id: nothing of the tables is met for the first time later. */
static void find_each(uint32_t count)
{
	uint32_t peers[PIECE];

	for (uint32_t i = 0; i < count;) {
		uint8_t address[16];

		address_of(i, address);
		if (vk_peers_find(world.run, 4, address) != (int)i)
			fail("another peer was found");
		peers[world.count] = i;
		make_head(i++);
		if (world.count == PIECE || i == count)
			find_made(peers);
	}
}

/* Finds who datagrams are from, of all that are installed: by the ids in their heads, and by their
 * sources. Whether an id is the session's is compared in the session, which receiving reads for
 * other reasons and which is not in here. `busy`: between the pieces others use the caches. */
static double find_all(uint32_t count, int busy)
{
	uint32_t peers[PIECE];

	find_each(count);
	for (uint32_t i = 0; i < FIND_ROUNDS; i += PIECE) {
		double begun;

		if (busy)
			read_others(PIECE);
		for (uint32_t k = 0; k < PIECE; k++) {
			peers[k] = any(count);
			make_head(peers[k]);
		}
		begun = now();
		find_made(peers);
		note(now() - begun);
	}
	return median();
}

static void find(uint32_t count)
{
	world.others = map(OTHERS);
	memset(world.others, 1, OTHERS);
	printf("find_ns %.2f\n", find_all(count, 0));
	printf("find_busy_ns %.2f\n", find_all(count, 1));
	vk_pages_unmap(world.others, OTHERS);
}

static void use_first(uint32_t used)
{
	double before = resident(), spent = 0;

	for (uint32_t i = 0; i < used;) {
		while (i < used && world.count < PIECE)
			make_frame(i++);
		spent += receive();
	}
	if (counted(VK_RX_CONTROL) != used)
		fail("a first frame was not taken");
	printf("first_ns %.0f\nused_bytes %.0f\n", spent / used, (resident() - before) / used);
}

static void use_any(uint32_t used, uint32_t rounds)
{
	uint64_t before = counted(VK_RX_CONTROL), made = 0;

	for (; made < rounds; made += PIECE) {
		for (uint32_t k = 0; k < PIECE; k++)
			make_frame(any(used));
		note(receive());
	}
	if (counted(VK_RX_CONTROL) - before != made)
		fail("a frame was not taken");
	printf("receive_ns %.1f\n", median());
}

/* Nobody says anything for a while: few sessions remain, and go on where they were. */
static void be_idle(uint32_t used)
{
	uint32_t last = used - 1, kept = used < VK_IDLE_KEPT ? used : VK_IDLE_KEPT;
	uint64_t taken, old = counted(VK_DROP_FRAME_TWICE);

	for (uint32_t i = 0; i < 2 * VK_IDLE_S * 10 + used / 1024; i++)
		turn(VK_TICK_NS);
	if (world.run->active_count != kept)
		fail("idle sessions are kept, or others are not");
	printf("kept %u\n", kept);
	make_frame(last);
	receive();
	taken = counted(VK_RX_CONTROL);
	make_numbered(last, world.numbers[last] - 1);
	make_numbered(last, 0);
	receive();
	if (counted(VK_RX_CONTROL) != taken || counted(VK_DROP_FRAME_TWICE) != old + 2)
		fail("what came before was taken again");
}

int main(int argc, char **argv)
{
	uint32_t count, used, rounds;

	if (argc != 4)
		fail("usage: sessions COUNT USED ROUNDS");
	count = (uint32_t)atoi(argv[1]);
	used = (uint32_t)atoi(argv[2]);
	rounds = (uint32_t)atoi(argv[3]);
	if (!count || count > VK_PEERS_MAX || !used || used > count || used > USED_MAX)
		fail("COUNT and USED are out of bounds");
	begin(count);
	install_all(count);
	find(count);
	use_first(used);
	use_any(used, rounds);
	be_idle(used);
	vk_engine_free(world.run);
	return 0;
}
