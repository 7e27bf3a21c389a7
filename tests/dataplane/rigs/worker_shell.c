/* SPDX-License-Identifier: MIT */
/* The rig's commands: one a line on standard input, one line of answer each. */
#include "worker_rig.h"

#include "vk_engine.h"
#include "vk_row.h"
#include "vk_session.h"
#include "vk_slots.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { LINE_MAX_SIZE = 1 << 18 };

static uint8_t payload[VK_MESSAGE_MAX / 256];
static char line[LINE_MAX_SIZE];
static uint64_t argument[24];
static char word[256];

/* Payloads say who they are: the mark, then bytes that follow from it. */
static void fill(uint8_t *at, uint32_t size, uint64_t mark)
{
	for (uint32_t i = 0; i < size; i++)
		at[i] = i < 8 ? (uint8_t)(mark >> 8 * i) : (uint8_t)(mark * 7 + i);
}

static uint64_t mark_of(const uint8_t *at, uint32_t size)
{
	uint64_t mark = 0;

	for (uint32_t i = 0; i < size && i < 8; i++)
		mark |= (uint64_t)at[i] << 8 * i;
	for (uint32_t i = 8; i < size; i++)
		if (at[i] != (uint8_t)(mark * 7 + i))
			return UINT64_MAX;
	return mark;
}

enum { STREAMS = 4096 };

static uint32_t unhex(const char *text)
{
	uint32_t size = 0;
	unsigned byte;

	while (size < sizeof payload && sscanf(text + 2 * size, "%2x", &byte) == 1)
		payload[size++] = (uint8_t)byte;
	return size;
}

static struct rig_app *app_of(void)
{
	return &rig_nodes[argument[0]].apps[argument[1]];
}

static int put(uint32_t kind, const struct vk_message *message, const uint8_t *data, uint32_t size)
{
	struct rig_app *app = app_of();
	struct vk_tx *tx = &app->tx[vk_stream_class(message->stream)];
	uint8_t *body = vk_tx_reserve(tx, sizeof *message + size);

	if (!body)
		return 0;
	memcpy(body, message, sizeof *message);
	memcpy(body + sizeof *message, data, size);
	vk_tx_commit(tx, sizeof *message + size, (uint8_t)kind);
	vk_tx_publish(tx);
	return 1;
}

/* What an application's library counts: the next message of a stream. */
static uint32_t *next_sequence(uint32_t node, const struct vk_message *message)
{
	static struct {
		uint32_t generation;
		uint32_t next;
	} streams[RIG_NODES][STREAMS];
	uint32_t at = message->flow < STREAMS ? message->flow : STREAMS - 1;

	if (streams[node][at].generation != message->flow_generation) {
		streams[node][at].generation = message->flow_generation;
		streams[node][at].next = 0;
	}
	return &streams[node][at].next;
}

/* put node slot kind flow generation peer stream correlation type flags priority size mark
 * [code [stamp]] */
static void do_put(void)
{
	struct vk_message message = {
		.flow = (uint32_t)argument[3],
		.flow_generation = (uint32_t)argument[4],
		.peer = (uint32_t)argument[5],
		.stream = (uint32_t)argument[6],
		.correlation = (uint32_t)argument[7],
		.type = (uint8_t)argument[8],
		.flags = (uint8_t)argument[9],
		.priority = (uint8_t)argument[10],
		.code = (uint32_t)argument[13],
		.time_ns = argument[14] ? rig_now_ns : 0,
	};

	uint32_t *next = next_sequence((uint32_t)argument[0], &message);
	int done;

	message.sequence = *next;
	fill(payload, (uint32_t)argument[11], argument[12]);
	done = put((uint32_t)argument[2], &message, payload, (uint32_t)argument[11]);
	*next += (uint32_t)(done && argument[2] == VK_RECORD_DATA);
	printf("%d\n", done);
}

/* open node slot peer stream token name */
static void do_open(void)
{
	struct vk_message message = {
		.flow = VK_NO_FLOW,
		.peer = (uint32_t)argument[2],
		.stream = (uint32_t)argument[3],
		.correlation = (uint32_t)argument[4],
	};

	printf("%d\n", put(VK_RECORD_OPEN, &message, (uint8_t *)word, (uint32_t)strlen(word)));
}

/* What an application's library reports: all it has taken of a stream. */
static void consume(const struct vk_message *message, uint32_t size)
{
	static struct vk_consumed streams[RIG_NODES][STREAMS];
	struct vk_tx *tx = &app_of()->tx[VK_CLASS_CONTROL];
	struct vk_consumed *report;
	uint8_t *body;

	if (message->flow >= STREAMS)
		return;
	report = &streams[argument[0]][message->flow];
	if (report->flow_generation != message->flow_generation)
		*report = (struct vk_consumed){ message->flow, message->flow_generation, 0 };
	report->cost += (uint64_t)size + VK_MESSAGE_COST;
	body = vk_tx_reserve(tx, sizeof *report);
	if (!body)
		return; /* the next one says it too */
	memcpy(body, report, sizeof *report);
	vk_tx_commit(tx, sizeof *report, VK_RECORD_CONSUMED);
	vk_tx_publish(tx);
}

/* take node slot class max */
static void do_take(void)
{
	struct vk_rx *rx = &app_of()->rx[argument[2]];
	struct vk_record record;
	const uint8_t *body;

	for (uint64_t i = 0; rx->self && i < argument[3] && vk_rx_peek(rx, &record, &body) > 0;
	     i++) {
		struct vk_message m;
		uint32_t size = record.size - (uint32_t)sizeof m;

		memcpy(&m, body, sizeof m);
		printf("%u %u %u %u %u %u %u %u %u %u %u %u %llu;", record.kind, m.flow,
		       m.flow_generation, m.peer, m.stream, m.sequence, m.correlation, m.type,
		       m.flags, m.priority, m.code, size,
		       (unsigned long long)mark_of(body + sizeof m, size));
		if (record.kind == VK_RECORD_DATA)
			consume(&m, size);
		vk_rx_advance(rx, &record);
	}
	if (rx->self)
		vk_rx_release(rx);
	printf("\n");
}

/* reach node slot peers: a bit for each of the first eight */
static void do_reach(void)
{
	rig_nodes[argument[0]].state->reach[argument[1]].peers[0] = (uint8_t)argument[2];
	printf("\n");
}

/* app node slot ring_size class_mask weight rate_messages rate_bytes first last */
static void do_app(void)
{
	struct vk_app row = {
		.state = VK_ROW_LIVE,
		.class_mask = (uint8_t)argument[3],
		.weight = (uint16_t)argument[4],
		.rate_messages = argument[5],
		.rate_bytes = argument[6],
		.range_count = 1,
		.range_first = { (uint32_t)argument[7] },
		.range_last = { (uint32_t)argument[8] },
	};

	printf("%d\n", rig_attach((uint32_t)argument[0], (uint32_t)argument[1],
				  (uint32_t)argument[2], &row));
}

/* log: the frames that were sent since the last call, with their fates */
static void do_log(void)
{
	for (uint32_t i = 0; i < rig_log_count; i++) {
		printf("%u %u %u ", rig_log[i].from, rig_log[i].class, rig_log[i].fate);
		for (uint32_t k = 0; k < rig_log[i].size; k++)
			printf("%02x", rig_log[i].data[k]);
		printf(";");
		free(rig_log[i].data);
	}
	rig_log_count = 0;
	printf("\n");
}

static void do_counters(void)
{
	const struct vk_counters *counters = rig_nodes[argument[0]].boot->counters;

	for (uint32_t c = 0; c < VK_CLASS_COUNT; c++)
		for (uint32_t i = 0; i < VK_COUNTER_COUNT; i++)
			printf("%llu ", (unsigned long long)counters->classes[c][i]);
	for (uint32_t i = 0; i < VK_GAUGE_COUNT; i++)
		printf("%llu ", (unsigned long long)counters->gauges[i]);
	printf("\n");
}

/* sleep node slot class need: an application waits, for records or so much room, for good */
static void do_sleep(void)
{
	struct rig_app *app = app_of();

	app->self->need[argument[2]] = (uint32_t)argument[3];
	app->self->sleeping++;
	printf("1\n");
}

/* rest node slot: the worker goes to sleep and wakes; by which number its application knows that */
static void do_rest(void)
{
	struct vk_run *run = rig_nodes[argument[0]].run;

	vk_slots_sleep(run);
	printf("%u\n", run->slots[argument[1]].self->sleeping);
	vk_slots_wake(run);
}

/* pending node: whether applications have something that the worker has not looked at */
static void do_pending(void)
{
	printf("%d\n", vk_slots_pending(rig_nodes[argument[0]].run));
}

/* poke node slot 't'|'h'|'d' class value: an application writes what it should not;
 * 'c' class bytes: a worker that is dead had put so much more into a ring;
 * 'f' 0 count: of the node's flows so many are in use */
static void do_poke(void)
{
	struct rig_app *app = app_of();
	struct vk_work *work = rig_nodes[argument[0]].boot->work;
	uint32_t class = (uint32_t)argument[2];

	if (word[0] == 'c')
		work->committed[argument[1]][class] += argument[3];
	else if (word[0] == 'f')
		work->flow_count = (uint32_t)argument[3];
	else if (word[0] == 't')
		app->self->tail[class] = argument[3];
	else if (word[0] == 'h')
		app->self->head[class] = argument[3];
	else
		vk_channel_data(app->self, app->capacity, class)[argument[3]] =
			(uint8_t)argument[4];
	printf("1\n");
}

/* raw node class hex: a frame from the peer */
static void do_raw(void)
{
	const uint8_t source[16] = { 10, 0, 0, (uint8_t)(argument[2] + 1) };
	const char *hex = strrchr(line, ' ') + 1;
	uint32_t size = unhex(hex);

	rig_inject((uint32_t)argument[0], (uint32_t)argument[1], payload, size, 4, source);
	printf("1\n");
}

static void do_net(void)
{
	rig_net = (struct rig_net){ (uint32_t)argument[0], (uint32_t)argument[1],
				    (uint32_t)argument[2], (uint32_t)argument[3],
				    (uint32_t)argument[4] };
	rig_seed(argument[5]);
	printf("1\n");
}

static void do_turn(void)
{
	int done = 0;

	for (uint64_t i = 0; i < argument[1]; i++)
		done += rig_turn((uint32_t)argument[0]) != 0;
	printf("%d\n", done);
}

static void do_worker(void)
{
	uint32_t node = (uint32_t)argument[0];

	if (!strcmp(word, "stop"))
		rig_stop(node);
	else if (!strcmp(word, "kill"))
		rig_kill(node);
	else
		rig_start(node, !strcmp(word, "recover"));
	printf("1\n");
}

static void do_param(void)
{
	struct vk_params *params = &rig_nodes[argument[0]].state->params;

	params->sequence += 2;
	if (!strcmp(word, "aggregate"))
		params->aggregate = (uint32_t)argument[1];
	else if (!strcmp(word, "stamp"))
		params->stamp = (uint32_t)argument[1];
	else if (!strcmp(word, "reassembly_bytes"))
		params->reassembly_bytes = (uint32_t)argument[1];
	else if (!strcmp(word, "streams_max")) /* what we take, ... */
		params->streams_max = (uint32_t)argument[1];
	else if (!strcmp(word, "quantum"))
		params->quantum_bytes[argument[1]] = (uint32_t)argument[2];
	rig_now_ns += VK_TICK_NS; /* it takes effect with the next tick */
	printf("1\n");
}

static void do_peer(void)
{
	struct vk_state *state = rig_nodes[argument[0]].state;

	state->peers[0].sequence += 2;
	state->peers[0].state = argument[1] ? VK_ROW_LIVE : VK_ROW_FREE;
	state->peers[0].generation = (uint32_t)argument[1];
	vk_peer_news(state, 0);
	printf("1\n");
}

/* other node number: one more peer, heard only by `raw` with its number as the source */
static void do_other(void)
{
	struct vk_state *state = rig_nodes[argument[0]].state;
	struct vk_peer *row = &state->peers[argument[1]];

	*row = (struct vk_peer){
		.state = VK_ROW_LIVE,
		.family = 4,
		.generation = 1,
		.payload_max = 1472,
		.joined = 1,
		.address = { 10, 0, 0, (uint8_t)(argument[1] + 1) },
	};
	vk_peer_news(state, (uint32_t)argument[1]);
	printf("1\n");
}

/* join node joined streams_max: the handshake with the peer came to its end, or the peer left */
static void do_join(void)
{
	struct vk_state *state = rig_nodes[argument[0]].state;

	state->peers[0].sequence += 2;
	state->peers[0].joined = argument[1] != 0;
	state->peers[0].streams_max = (uint32_t)argument[2];
	vk_peer_news(state, 0);
	printf("1\n");
}

/* token node classes: the peer has given a token, whose body counts up from 0x70 */
static void do_token(void)
{
	struct vk_state *state = rig_nodes[argument[0]].state;
	struct vk_peer *row = &state->peers[0];

	row->sequence += 2;
	row->token_classes = (uint8_t)argument[1];
	vk_put_ext(row->token, VK_EXT_TOKEN, sizeof row->token, 7);
	for (uint32_t i = 4; i < sizeof row->token; i++)
		row->token[i] = (uint8_t)(0x70 + i);
	vk_peer_news(state, 0);
	printf("1\n");
}

/* session node remote local generations code refuse [before [known]]: what a daemon enters of the
 * peer */
static void do_session(void)
{
	struct vk_state *state = rig_nodes[argument[0]].state;
	struct vk_peer *row = &state->peers[0];

	row->sequence += 2;
	row->session = (uint32_t)argument[1];
	row->session_local = (uint32_t)argument[2];
	row->generation += (uint32_t)argument[3];
	row->end_code = (uint32_t)argument[4];
	row->refuse = (uint32_t)argument[5];
	row->before_local = (uint32_t)argument[6];
	row->known = (uint8_t)argument[7];
	row->udp_port = VK_PORT;
	vk_peer_news(state, 0);
	printf("1\n");
}

/* python node: what the worker has told the daemon */
static void do_python(void)
{
	struct {
		struct vk_control_frame head;
		uint8_t frame[2048];
	} packet;
	ssize_t size;

	while ((size = recv(rig_nodes[argument[0]].python, &packet, sizeof packet, MSG_DONTWAIT)) >=
	       (ssize_t)sizeof packet.head) {
		printf("%u %u %u ", packet.head.kind, packet.head.peer, packet.head.address[3]);
		for (ssize_t i = 0; i < size - (ssize_t)sizeof packet.head; i++)
			printf("%02x", packet.frame[i]);
		printf(";");
	}
	printf("\n");
}

/* ask node: its daemon wants to know whether the peer lives */
static void do_ask(void)
{
	vk_engine_ask(rig_nodes[argument[0]].run, 0);
	printf("1\n");
}

/* heard node: when a frame of the session last came, in ns */
static void do_heard(void)
{
	const struct vk_run *run = rig_nodes[argument[0]].run;

	printf("%llu\n", (unsigned long long)run->work->packets[0].heard_ns);
}

/* ledger node slot class number: the entries of an empty ring are numbered from there */
static void do_ledger(void)
{
	struct vk_run_slot *slot = &rig_nodes[argument[0]].run->slots[argument[1]];
	struct vk_ledger *ledger = &slot->ledgers[argument[2]];
	int empty = vk_ledger_empty(ledger);

	if (empty)
		ledger->first = ledger->next = (uint32_t)argument[3];
	printf("%d\n", empty);
}

/* numbers node space count: packets are numbered and not sent; how many numbers are left out, and
 * the most that lie between two of those */
static void do_numbers(void)
{
	struct vk_run *run = rig_nodes[argument[0]].run;
	uint64_t last = vk_session_number(run, run->sessions[0], (uint32_t)argument[1]);
	uint64_t gaps = 0, row = 0, longest = 0;

	for (uint64_t i = 0; i < argument[2]; i++) {
		uint64_t number = vk_session_number(run, run->sessions[0], (uint32_t)argument[1]);

		row = number == last + 1 ? row + 1 : 0;
		gaps += number != last + 1;
		longest = row > longest ? row : longest;
		last = number;
	}
	printf("%llu %llu\n", (unsigned long long)gaps, (unsigned long long)longest);
}

/* shards node: messages whose progress is noted */
static void do_shards(void)
{
	const struct vk_shard_table *table = &rig_nodes[argument[0]].run->shards;
	uint32_t used = table->count;

	for (uint32_t i = table->free; i; i = table->rows[i - 1].next_free)
		used--;
	printf("%u\n", used);
}

/* gaps node: streams of which something came out of turn, as the pool and as peers have it */
static void do_gaps(void)
{
	const struct vk_run *run = rig_nodes[argument[0]].run;
	uint32_t held = 0;

	for (uint32_t i = 0; i < run->peer_count; i++)
		held += run->pools[i].gaps;
	printf("%u %u\n", VK_SEQUENCE_POOL - run->gaps.free_count, held);
}

/* payload node bytes: the largest datagram to the peer */
static void do_payload(void)
{
	struct vk_state *state = rig_nodes[argument[0]].state;

	state->peers[0].sequence += 2;
	state->peers[0].payload_max = (uint16_t)argument[1];
	vk_peer_news(state, 0);
	printf("1\n");
}

static void do_news(void)
{
	uint32_t slot = 0, kind = rig_news((uint32_t)argument[0], &slot);

	printf("%u %u\n", kind, slot);
}

static void do_blocked(void)
{
	printf("%u\n", app_of()->peer->blocked[argument[2]]);
}

static void do_time(void)
{
	rig_now_ns += argument[0];
	printf("1\n");
}

static void do_service(void)
{
	rig_service((uint32_t)argument[0], (uint32_t)argument[1], word);
	printf("1\n");
}

static void do_detach(void)
{
	printf("%d\n", rig_detach((uint32_t)argument[0], (uint32_t)argument[1]));
}

static const struct {
	const char *name;
	void (*run)(void);
} commands[] = {
	{ "put", do_put },	   { "open", do_open },	    { "take", do_take },
	{ "app", do_app },	   { "log", do_log },	    { "counters", do_counters },
	{ "poke", do_poke },	   { "raw", do_raw },	    { "net", do_net },
	{ "sleep", do_sleep },	   { "turn", do_turn },	    { "worker", do_worker },
	{ "param", do_param },	   { "peer", do_peer },	    { "news", do_news },
	{ "blocked", do_blocked }, { "time", do_time },	    { "service", do_service },
	{ "detach", do_detach },   { "join", do_join },	    { "session", do_session },
	{ "python", do_python },   { "token", do_token },   { "ledger", do_ledger },
	{ "numbers", do_numbers }, { "shards", do_shards }, { "payload", do_payload },
	{ "gaps", do_gaps },	   { "rest", do_rest },	    { "other", do_other },
	{ "pending", do_pending }, { "ask", do_ask },	    { "heard", do_heard },
	{ "reach", do_reach },
};

/* Splits a line into its command, numbers and the word among them. */
static const char *parse(void)
{
	char *at = strchr(line, ' '), *end;
	static char name[32];
	uint32_t count = 0;

	memset(argument, 0, sizeof argument);
	snprintf(name, sizeof name, "%.*s", (int)strcspn(line, " \n"), line);
	word[0] = 0;
	for (; at && count < 24; at = strchr(at, ' ')) {
		argument[count] = strtoull(++at, &end, 10);
		if (end == at || (*end != ' ' && *end != '\n'))
			snprintf(word, sizeof word, "%.*s", (int)strcspn(at, " \n"), at);
		else
			count++;
	}
	return name;
}

int main(void)
{
	for (uint32_t i = 0; i < RIG_NODES; i++)
		rig_open(i);
	for (uint32_t i = 0; i < RIG_NODES; i++)
		rig_start(i, 0);
	while (fgets(line, sizeof line, stdin)) {
		const char *name = parse();
		uint32_t i = 0;

		while (i < sizeof commands / sizeof commands[0] && strcmp(commands[i].name, name))
			i++;
		if (i == sizeof commands / sizeof commands[0])
			abort();
		commands[i].run();
		fflush(stdout);
	}
	return 0;
}
