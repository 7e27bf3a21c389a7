/* SPDX-License-Identifier: MIT */
/* zeromq.c: PUSH and PULL one way, DEALER to DEALER for round trips. An address that ends in '#'
 * and a path is CURVE: the receiver leaves its public key there.
 */
#include "side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum { QUEUE_BYTES = 16 << 20, QUEUE_MIN = 1000, KEY = 41 };

static void *end;
static zmq_msg_t came;

static void check(int code, const char *what)
{
	if (code < 0) {
		fprintf(stderr, "%s: %s\n", what, zmq_strerror(zmq_errno()));
		exit(1);
	}
}

static void secure(const char *path, int listens)
{
	char public_key[KEY], secret_key[KEY], server_key[KEY] = "";
	FILE *file = fopen(path, listens ? "w" : "r");
	int one = 1;

	if (!file)
		side_fail(path);
	check(zmq_curve_keypair(public_key, secret_key), "CURVE keys");
	check(zmq_setsockopt(end, ZMQ_CURVE_SECRETKEY, secret_key, KEY), "secret key");
	check(zmq_setsockopt(end, ZMQ_CURVE_PUBLICKEY, public_key, KEY), "public key");
	if (listens) {
		fputs(public_key, file);
		check(zmq_setsockopt(end, ZMQ_CURVE_SERVER, &one, sizeof one), "server");
	} else {
		if (!fgets(server_key, KEY, file))
			side_fail(path);
		check(zmq_setsockopt(end, ZMQ_CURVE_SERVERKEY, server_key, KEY), "server key");
	}
	fclose(file);
}

static void zeromq_open(const struct side_order *order)
{
	int one_way = order->listens ? ZMQ_PULL : ZMQ_PUSH;
	int queue = QUEUE_BYTES / (int)order->size;
	char address[256], *key;

	end = zmq_socket(zmq_ctx_new(), order->two_way ? ZMQ_DEALER : one_way);
	if (queue < QUEUE_MIN)
		queue = QUEUE_MIN;
	zmq_setsockopt(end, ZMQ_SNDHWM, &queue, sizeof queue);
	zmq_setsockopt(end, ZMQ_RCVHWM, &queue, sizeof queue);
	snprintf(address, sizeof address, "%s", order->address);
	key = strchr(address, '#');
	if (key) {
		*key = '\0';
		secure(key + 1, order->listens);
	}
	check((order->listens ? zmq_bind : zmq_connect)(end, address), address);
	zmq_msg_init(&came);
}

static void zeromq_send(const void *message, uint32_t size)
{
	check(zmq_send(end, message, size, 0), "zmq_send");
}

static const uint8_t *zeromq_receive(uint32_t *size, int timeout_ms)
{
	zmq_pollitem_t item = { end, 0, ZMQ_POLLIN, 0 };
	int got = zmq_msg_recv(&came, end, ZMQ_DONTWAIT);

	if (got < 0) {
		if (zmq_poll(&item, 1, timeout_ms) <= 0)
			return NULL;
		got = zmq_msg_recv(&came, end, 0);
		check(got, "zmq_msg_recv");
	}
	*size = (uint32_t)got;
	return zmq_msg_data(&came);
}

static void zeromq_flush(void)
{
}

const struct side_transport side_transport = {
	.open = zeromq_open,
	.send = zeromq_send,
	.receive = zeromq_receive,
	.flush = zeromq_flush,
};
