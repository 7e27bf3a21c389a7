/* SPDX-License-Identifier: MIT */
/* libFuzzer: frames of a session with keys. The fuzzer is the peer: it knows the secret, so what it
 * changes is sealed again before it is sent, and the code behind the tag is reached. Sealing is
 * part of how an input is read, and not of a mutator, so that a saved input means the same whatever
 * session it meets. Checked: a frame that was sealed as it should be gets behind the tag, once, and
 * nothing else ever does: no changed bit, no repetition, no other epoch, nothing in the clear.
 *
 * Input: steps, each a byte that says what (enum step), one that says which, two of size, then a
 * frame without its SESSION, with room in front. */
#include "fuzz_node.h"
#include "vk_aead.h"
#include "vk_received.h"
#include "vk_row.h"
#include "vk_session.h"

#include <stdlib.h>
#include <string.h>

enum step {
	SEAL = 0, /* properly; the most likely step: 0 to 3 */
	NEXT = 4, /* under the next epoch's key: the receiver follows */
	BEFORE = 5, /* under the one before */
	JUMP = 6, /* numbers are left out */
	FLIP = 7, /* one bit is changed behind it */
	AGAIN = 8, /* the last frame that was taken */
	EPOCH = 9, /* an epoch that is out of reach */
	OPEN = 10, /* of the session, and not sealed */
	RAW = 11, /* the bytes as they are */
	RENEW = 12, /* another session, other keys */
	RESTART = 13, /* the worker dies and the next one begins */
	TIME = 14, /* passes */
	STEPS = 15,
};

enum {
	ROOM = 2048,
	SESSION_SIZE = sizeof(struct vk_ext_session),
	FRAME_MAX = ROOM - SESSION_SIZE - VK_TAG_SIZE,
	EPOCHS_ENOUGH = VK_EPOCHS - 16, /* then there is a new session */
	RESTARTS_MAX = 1, /* of an input: they cost */
	STEPS_MAX = 64,
};

struct sent {
	uint8_t bytes[ROOM];
	uint32_t size;
	uint32_t class;
};

static struct vk_secrets secrets;
static uint8_t chain[VK_EPOCHS][VK_SECRET_SIZE]; /* of what the peer sends, by epoch */
static uint32_t chain_count; /* derived so far */
static uint64_t numbers[VK_SPACE_COUNT];
static uint32_t session;
static struct sent last; /* the last frame that was taken in this session */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct vk_keyring *keyring(void)
{
	return &rig_nodes[FUZZ_NODE].run->sessions[0]->keyring;
}

/* Frames that got behind the tag. */
static uint64_t taken(void)
{
	const struct vk_packet *packet = &rig_nodes[FUZZ_NODE].boot->work->packets[0];
	uint64_t sum = 0;

	for (uint32_t s = 0; s < VK_SPACE_COUNT; s++)
		sum += packet->rx_packets[s];
	return sum;
}

/* What a daemon does when both have shaken hands. */
static void renew(void)
{
	struct vk_peer *row = &rig_nodes[FUZZ_NODE].state->peers[0];
	uint8_t which = session & 1;
	struct vk_keys *keys = &secrets.keys[which][0];

	session++;
	memset(keys, 0, sizeof *keys);
	memset(keys->open.secrets[0].bytes, (int)session, VK_SECRET_SIZE);
	memset(keys->seal.secrets[0].bytes, ~(int)session, VK_SECRET_SIZE);
	memcpy(chain[0], keys->open.secrets[0].bytes, VK_SECRET_SIZE);
	chain_count = 1;
	keys->session = session;
	vk_row_begin(&row->sequence);
	row->session = row->session_local = session;
	row->cipher = session % 2 ? VK_CIPHER_AES_256_GCM : VK_CIPHER_CHACHA20_POLY1305;
	row->keys = which;
	vk_row_end(&row->sequence);
	vk_peer_news(rig_nodes[FUZZ_NODE].state, 0);
	last.size = 0;
}

static void set_up(void)
{
	for (uint32_t i = 0; i < RIG_NODES; i++)
		rig_open(i);
	rig_nodes[FUZZ_NODE].boot->secrets = &secrets;
	renew();
	fuzz_node_attach();
}

static void step_turn(void)
{
	rig_now_ns += 1000000;
	fuzz_require(rig_turn(FUZZ_NODE) >= 0);
	fuzz_node_settle();
}

/* Sends a frame; 1 = it got behind the tag. */
static int deliver(const struct sent *frame)
{
	static const uint8_t source[16] = { 10, 0, 0, 1 };
	uint64_t before = taken();

	rig_inject(FUZZ_NODE, frame->class, frame->bytes, frame->size, 4, source);
	step_turn();
	fuzz_require(taken() - before <= 1);
	return taken() != before;
}

/* Makes a frame of the session out of what is mostly one: a header, extensions behind SESSION, and
 * content, which are the fuzzer's. */
static void frame_of(struct sent *to, const uint8_t *data, uint32_t size, uint32_t epoch)
{
	uint32_t ext, space;

	memset(to->bytes, 0, VK_HEADER_SIZE);
	memcpy(to->bytes, data, size < VK_HEADER_SIZE ? size : VK_HEADER_SIZE);
	ext = to->bytes[7] * (uint32_t)VK_EXT_WORD;
	if (size < VK_HEADER_SIZE)
		size = VK_HEADER_SIZE;
	if (ext > size - VK_HEADER_SIZE)
		ext = (size - VK_HEADER_SIZE) / VK_EXT_WORD * VK_EXT_WORD;
	if (ext > 255 * VK_EXT_WORD - SESSION_SIZE)
		ext = 255 * VK_EXT_WORD - SESSION_SIZE;
	vk_put16(to->bytes, VK_MAGIC);
	to->bytes[2] = VK_VERSION;
	to->bytes[4] |= VK_FLAG_ENC;
	to->bytes[7] = (uint8_t)((ext + SESSION_SIZE) / VK_EXT_WORD);
	vk_put32(to->bytes + 12, size - VK_HEADER_SIZE - ext);
	to->class = vk_stream_class(vk_get32(to->bytes + 8));
	space = vk_class_space(to->class);
	vk_put_session(to->bytes + VK_HEADER_SIZE, session, epoch, space, numbers[space]++);
	if (size > VK_HEADER_SIZE)
		memcpy(to->bytes + VK_HEADER_SIZE + SESSION_SIZE, data + VK_HEADER_SIZE,
		       size - VK_HEADER_SIZE);
	to->size = size + SESSION_SIZE + VK_TAG_SIZE;
}

static const uint8_t *secret_of(uint32_t epoch)
{
	for (; chain_count <= epoch; chain_count++)
		fuzz_require(!vk_aead_derive(chain[chain_count - 1], "epoch", chain[chain_count],
					     VK_SECRET_SIZE));
	return chain[epoch];
}

static void seal(struct sent *frame, uint32_t epoch)
{
	uint32_t head = VK_HEADER_SIZE + (uint32_t)frame->bytes[7] * VK_EXT_WORD;
	uint8_t *content = frame->bytes + head;
	struct vk_aead aead = { 0 };

	fuzz_require(!vk_aead_init(&aead, keyring()->cipher, secret_of(epoch), 1));
	fuzz_require(!vk_aead_seal(&aead, vk_class_space(frame->class),
				   vk_get64(frame->bytes + VK_HEADER_SIZE + 8), frame->bytes, head,
				   content, content, frame->size - head - VK_TAG_SIZE));
	vk_aead_free(&aead);
}

/* Sends a frame that is as it should be, if the fuzzer's part of it is, too. */
static void send_good(struct sent *frame, uint32_t epoch)
{
	struct vk_frame parsed;
	int good = !vk_frame_parse(&parsed, frame->bytes, frame->size, 1) &&
		   vk_frame_class(&parsed) == frame->class;
	int came;

	seal(frame, epoch);
	came = deliver(frame);
	fuzz_require(came == good);
	if (came)
		last = *frame;
}

static void send_flipped(struct sent *frame, uint32_t epoch, uint8_t which)
{
	uint32_t bit = (vk_get32(frame->bytes + 16) ^ which) % (frame->size * 8);

	seal(frame, epoch);
	frame->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	fuzz_require(!deliver(frame));
}

/* What came once is not taken again, whether there was room for it or not. */
static void send_again(void)
{
	if (last.size)
		fuzz_require(!deliver(&last));
}

static void send_raw(const uint8_t *data, uint32_t size, uint8_t which)
{
	struct sent raw = { .size = size, .class = which % VK_CLASS_COUNT };

	memcpy(raw.bytes, data, size);
	if (size >= VK_HEADER_SIZE)
		fuzz_require(!deliver(&raw));
}

static void send_frame(enum step step, uint8_t which, const uint8_t *data, uint32_t size)
{
	uint32_t epoch = keyring()->opening;
	struct sent frame;

	if (step == NEXT)
		epoch++;
	if (step == BEFORE && epoch && keyring()->there & 1u << (epoch - 1) % VK_OPENING)
		epoch--; /* a worker that follows another does not have it */
	if (step == EPOCH)
		epoch = epoch > 1 && which & 1 ? which % (epoch - 1) : epoch + 2 + which % 8;
	if (step == JUMP)
		for (uint32_t s = 0; s < VK_SPACE_COUNT; s++)
			numbers[s] += which;
	frame_of(&frame, data, size, epoch);
	if (step == OPEN) {
		frame.bytes[4] &= (uint8_t)~VK_FLAG_ENC;
		frame.size -= VK_TAG_SIZE;
		fuzz_require(!deliver(&frame));
	} else if (step == EPOCH) {
		seal(&frame, epoch);
		fuzz_require(!deliver(&frame));
	} else if (step == FLIP) {
		send_flipped(&frame, epoch, which);
	} else {
		send_good(&frame, epoch);
	}
}

static void take_step(enum step step, uint8_t which, const uint8_t *data, uint32_t size)
{
	switch (step) {
	case AGAIN:
		send_again();
		break;
	case RAW:
		send_raw(data, size, which);
		break;
	case RENEW:
		renew();
		step_turn();
		break;
	case RESTART:
		rig_kill(FUZZ_NODE);
		rig_start(FUZZ_NODE, 1);
		step_turn();
		break;
	case TIME:
		rig_now_ns += which * 10000000ull;
		step_turn();
		break;
	default:
		send_frame(step, which, data, size);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int restarts = 0;

	if (!rig_nodes[FUZZ_NODE].run)
		set_up();
	step_turn();
	for (int i = 0; i < STEPS_MAX && size > 4; i++) {
		enum step step = data[0] % STEPS;
		uint32_t bytes = (uint32_t)data[2] << 8 | data[3];

		if (bytes > size - 4)
			bytes = (uint32_t)size - 4;
		if (bytes > FRAME_MAX)
			bytes = FRAME_MAX;
		if (keyring()->opening >= EPOCHS_ENOUGH || keyring()->sealing >= EPOCHS_ENOUGH)
			take_step(RENEW, 0, NULL, 0);
		if (step != RESTART || restarts++ < RESTARTS_MAX)
			take_step(step, data[1], data + 4, bytes);
		data += 4 + bytes;
		size -= 4 + bytes;
	}
	return 0;
}
