/* SPDX-License-Identifier: MIT */
#include "vk_lab_world.h"

#include "vk_wire.h"

#include <string.h>

enum { SEEN_BITS = 64 };

static const uint64_t golden = 0x9e3779b97f4a7c15u;

int vk_lab_list_add(struct vk_lab_list *list, uint32_t ref)
{
	if (list->count == list->capacity) {
		uint32_t capacity = list->capacity ? 2 * list->capacity : 16;
		void *refs = realloc(list->refs, capacity * sizeof *list->refs);

		if (!refs)
			return 0;
		list->refs = refs;
		list->capacity = capacity;
	}
	list->refs[list->count++] = ref;
	return 1;
}

uint32_t vk_lab_stream_new(struct vk_lab *lab, uint32_t traffic)
{
	const struct vk_lab_traffic *config = &lab->scenario.traffics[traffic];
	struct vk_lab_traffic_run *run = &lab->traffics[traffic];
	struct vk_lab_stream *stream;

	if (lab->stream_count == lab->stream_capacity) {
		uint32_t capacity = lab->stream_capacity ? 2 * lab->stream_capacity : 64;
		void *streams = realloc(lab->streams, capacity * sizeof *lab->streams);

		if (!streams)
			return VK_LAB_NO_STREAM;
		lab->streams = streams;
		lab->stream_capacity = capacity;
	}
	stream = &lab->streams[lab->stream_count];
	memset(stream, 0, sizeof *stream);
	stream->traffic = traffic;
	stream->id = config->stream + run->next_id++ % config->stream_span;
	for (uint32_t side = 0; side < 2; side++) {
		struct vk_lab_end *end = &stream->ends[side];

		end->key = vk_random_mix(lab->scenario.seed * golden + lab->stream_count * 2ull +
					 side);
		end->attachment = lab->apps[side ? config->to : config->from].generation;
		end->flow = UINT32_MAX;
		end->total = UINT32_MAX;
	}
	stream->ends[VK_LAB_OPENER].want = config->messages;
	run->opened++;
	run->live++;
	lab->report.traffics[traffic].streams++;
	return lab->stream_count++;
}

void vk_lab_streams_free(struct vk_lab *lab)
{
	for (uint32_t i = 0; i < lab->stream_count; i++) {
		for (uint32_t side = 0; side < 2; side++) {
			free(lab->streams[i].ends[side].seen);
			free(lab->streams[i].ends[side].sent_ns);
			free(lab->streams[i].ends[side].parts);
		}
	}
	free(lab->streams);
	lab->streams = NULL;
	lab->stream_count = lab->stream_capacity = 0;
}

uint32_t vk_lab_message_size(const struct vk_lab *lab, const struct vk_lab_stream *stream,
			     uint32_t side, uint32_t sequence)
{
	const struct vk_lab_traffic *config = &lab->scenario.traffics[stream->traffic];
	uint64_t draw = vk_random_mix(stream->ends[side].key ^ (sequence + 1) * golden);
	uint32_t low = config->size_min, high = config->size_max, span;

	switch (config->size_kind) {
	case VK_LAB_SIZE_UNIFORM:
		break;
	case VK_LAB_SIZE_LOG: /* a power of two by chance, then any size up to the next */
		span = 32u - (uint32_t)__builtin_clz(high | 1u) -
		       (31u - (uint32_t)__builtin_clz(low | 1u));
		low = (low | 1u) << (draw & 0xffffffff) * span / 0x100000000u;
		high = low < high / 2 ? 2 * low : high;
		low = low < config->size_min ? config->size_min : low > high ? high : low;
		break;
	default:
		return high;
	}
	return low + (uint32_t)((draw >> 32) * ((uint64_t)high - low + 1) >> 32);
}

static uint64_t content_seed(const struct vk_lab_stream *stream, uint32_t side, uint32_t sequence)
{
	return vk_random_mix(stream->ends[side].key + sequence * golden);
}

/* Word `at` of a message: a few operations that a compiler does for many words at once. */
static inline uint64_t content_word(uint64_t seed, uint32_t at)
{
	uint64_t word = seed + at * golden;

	return word ^ word >> 31;
}

void vk_lab_message_fill(const struct vk_lab_stream *stream, uint32_t side, uint32_t sequence,
			 uint8_t *to, uint32_t size)
{
	uint64_t seed = content_seed(stream, side, sequence), word;
	uint32_t words = size / sizeof word;

	for (uint32_t i = 0; i < words; i++) {
		word = content_word(seed, i);
		memcpy(to + i * sizeof word, &word, sizeof word);
	}
	word = content_word(seed, words);
	memcpy(to + words * sizeof word, &word, size % sizeof word);
}

static int same_content(const struct vk_lab_stream *stream, uint32_t side, uint32_t sequence,
			const uint8_t *data, uint32_t size)
{
	uint64_t seed = content_seed(stream, side, sequence), word, there, differ = 0;
	uint32_t words = size / sizeof word;

	for (uint32_t i = 0; i < words; i++) {
		memcpy(&there, data + i * sizeof there, sizeof there);
		differ |= there ^ content_word(seed, i);
	}
	word = content_word(seed, words);
	return !differ && !memcmp(&word, data + words * sizeof word, size % sizeof word);
}

/* Makes room for the bit of a sequence. */
static int reach(struct vk_lab_end *end, uint32_t sequence)
{
	uint32_t count = end->seen_count ? end->seen_count : SEEN_BITS;
	uint64_t *seen;

	if (sequence < end->seen_count)
		return 1;
	while (count <= sequence)
		count *= 2;
	seen = realloc(end->seen, count / 8);
	if (!seen)
		return 0;
	memset(seen + end->seen_count / SEEN_BITS, 0, (count - end->seen_count) / 8);
	end->seen = seen;
	end->seen_count = count;
	return 1;
}

static int seen(const struct vk_lab_end *end, uint32_t sequence)
{
	return sequence < end->seen_count &&
	       end->seen[sequence / SEEN_BITS] >> sequence % SEEN_BITS & 1;
}

static int right(struct vk_lab *lab, const struct vk_lab_stream *stream, uint32_t side,
		 uint32_t sequence, const uint8_t *data, uint32_t size, uint32_t code)
{
	const struct vk_lab_end *end = &stream->ends[side];

	if (lab->scenario.unchecked)
		return 1;
	if (end->parts ? end->parts[sequence] != (size | code << VK_LAB_PART_CODE) :
			 code || size != vk_lab_message_size(lab, stream, side, sequence))
		return 0;
	return same_content(stream, side, sequence, data, size);
}

int vk_lab_promised(const struct vk_lab *lab, const struct vk_lab_stream *stream)
{
	return lab->scenario.reliable && vk_stream_class(stream->id) != VK_CLASS_LOGS;
}

/* Takes messages in their order, as far as they are there; fragments are whole messages then. */
static void take(struct vk_lab_end *end, const uint32_t *parts)
{
	while (seen(end, end->taken)) {
		uint32_t code = parts ? parts[end->taken] >> VK_LAB_PART_CODE : 0;

		end->answerable += !(code & VK_FRAGMENT_MORE);
		end->taken++;
	}
}

/* Counts a new message: what the application may have of it now, and how late it is. */
static void arrive(struct vk_lab *lab, struct vk_lab_stream *stream, uint32_t side,
		   uint32_t sequence, uint32_t size)
{
	struct vk_lab_traffic_report *report = &lab->report.traffics[stream->traffic];
	struct vk_lab_end *end = &stream->ends[side], *other = &stream->ends[!side];
	int ordered = vk_stream_class(stream->id) < VK_CLASS_DATA || other->parts;
	uint64_t held;

	end->seen[sequence / SEEN_BITS] |= (uint64_t)1 << sequence % SEEN_BITS;
	end->came++;
	end->arrived_cost += size + (uint64_t)VK_MESSAGE_COST;
	report->taken -= end->taken;
	if (ordered)
		take(end, other->parts);
	else
		end->taken = end->answerable = end->came;
	report->taken += end->taken;
	report->arrived++;
	report->arrived_bytes += size;
	report->finished_ns = lab->now_ns - vk_lab_start_ns;
	held = end->arrived_cost - end->consumed_cost;
	if (held > lab->report.held_max)
		lab->report.held_max = held;
	if (lab->scenario.held_bytes && held > lab->scenario.held_bytes)
		vk_lab_fail(lab, "stream %u: a library holds %llu bytes", stream->id,
			    (unsigned long long)held);
	if (other->sent_ns) {
		uint64_t delay_ns = lab->now_ns - other->sent_ns[sequence];

		report->timed++;
		report->delay_sum_ns += delay_ns;
		if (delay_ns > report->delay_max_ns)
			report->delay_max_ns = delay_ns;
	}
}

int vk_lab_message_came(struct vk_lab *lab, uint32_t ref, uint32_t sequence, const uint8_t *data,
			uint32_t size, uint32_t code)
{
	struct vk_lab_stream *stream = &lab->streams[ref / 2];
	const struct vk_lab_traffic *config = &lab->scenario.traffics[stream->traffic];
	uint32_t side = ref % 2, to = side == VK_LAB_OPENER ? config->from : config->to;
	struct vk_lab_end *end = &stream->ends[side];

	vk_lab_note(lab, (uint64_t)ref << 32 | sequence);
	if (sequence >= stream->ends[!side].sent) {
		if (lab->scenario.unchecked)
			return 0;
		vk_lab_fail(lab, "stream %u: message %u came and %u were sent", stream->id,
			    sequence, stream->ends[!side].sent);
		return 0;
	}
	if (!right(lab, stream, !side, sequence, data, size, code)) {
		vk_lab_fail(lab, "stream %u: message %u came with other content", stream->id,
			    sequence);
		return 0;
	}
	if (seen(end, sequence)) {
		lab->report.traffics[stream->traffic].repeated++;
		if (!lab->nodes[lab->apps[to].config->node].killed)
			vk_lab_fail(lab, "stream %u: message %u came twice", stream->id, sequence);
		return 0;
	}
	if (sequence >= end->total && lab->scenario.reliable)
		vk_lab_fail(lab, "stream %u: message %u came and it ended with %u", stream->id,
			    sequence, end->total);
	if (!reach(end, sequence))
		return 0;
	arrive(lab, stream, side, sequence, size);
	return 1;
}

/* A stream is over: its traffic may open the next. */
static void leave(struct vk_lab *lab, const struct vk_lab_stream *stream)
{
	lab->traffics[stream->traffic].live -= !stream->orphan;
	lab->unfinished--;
	vk_lab_wake_app(lab, lab->scenario.traffics[stream->traffic].from, lab->now_ns);
}

void vk_lab_stream_break(struct vk_lab *lab, uint32_t number, uint32_t code)
{
	struct vk_lab_stream *stream = &lab->streams[number];

	if (stream->broken || stream->finished)
		return;
	stream->broken = code ? code : VK_CODE_MALFORMED;
	lab->report.traffics[stream->traffic].broken++;
	leave(lab, stream);
}

/* Whether who is left has nothing to wait for: no RESET need come. */
static int told(const struct vk_lab_stream *stream)
{
	const struct vk_lab_end *end = &stream->ends[stream->orphan == 1 + VK_LAB_OPENER];

	return end->state == VK_LAB_END_NONE ||
	       (end->state == VK_LAB_END_CLOSED && end->total != UINT32_MAX);
}

void vk_lab_stream_orphan(struct vk_lab *lab, uint32_t number, uint32_t side)
{
	struct vk_lab_stream *stream = &lab->streams[number];

	lab->traffics[stream->traffic].live--;
	stream->orphan = 1 + side;
	vk_lab_stream_settle(lab, number);
	vk_lab_wake_app(lab, lab->scenario.traffics[stream->traffic].from, lab->now_ns);
}

void vk_lab_stream_settle(struct vk_lab *lab, uint32_t number)
{
	struct vk_lab_stream *stream = &lab->streams[number];
	int promised = vk_lab_promised(lab, stream);

	if (stream->broken || stream->finished)
		return;
	if (stream->orphan) {
		if (told(stream))
			vk_lab_stream_break(lab, number, VK_CODE_APPLICATION_GONE);
		return;
	}
	for (uint32_t side = 0; side < 2; side++) {
		const struct vk_lab_end *end = &stream->ends[side];

		if (!lab->scenario.reliable && side == VK_LAB_ACCEPTOR)
			continue;
		if (end->state != VK_LAB_END_CLOSED)
			return;
		if (lab->scenario.reliable && end->total == UINT32_MAX)
			return;
		if (promised && end->came < end->total)
			return;
	}
	stream->finished = 1;
	lab->report.traffics[stream->traffic].finished++;
	leave(lab, stream);
}
