/* SPDX-License-Identifier: MIT */
/* iceoryx.cpp: untyped publishers and subscribers over RouDi's shared memory, polled; a publisher
 * whose subscriber is full waits. The address is a path: its name is the run's.
 */
#include "side.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include "iceoryx_posh/popo/untyped_publisher.hpp"
#include "iceoryx_posh/popo/untyped_subscriber.hpp"
#include "iceoryx_posh/runtime/posh_runtime.hpp"

namespace
{
constexpr uint64_t QUEUE = 256;
constexpr int LOOKS = 1000; /* between two readings of the clock */

std::unique_ptr<iox::popo::UntypedPublisher> outgoing;
std::unique_ptr<iox::popo::UntypedSubscriber> incoming;
const void *held;

iox::capro::ServiceDescription service(const std::string &run, const char *way)
{
	using iox::capro::IdString_t;

	return { "perf", IdString_t(iox::cxx::TruncateToCapacity, run.c_str()),
		 IdString_t(iox::cxx::TruncateToCapacity, way) };
}

void iceoryx_open(const struct side_order *order)
{
	const std::string path = order->address, run = path.substr(path.rfind('/') + 1);
	const std::string role = order->listens ? "receiver" : "sender";
	iox::popo::PublisherOptions sending;
	iox::popo::SubscriberOptions taking;

	iox::runtime::PoshRuntime::initRuntime(
		{ iox::cxx::TruncateToCapacity, ("perf-" + role + "-" + run).c_str() });
	sending.subscriberTooSlowPolicy = iox::popo::ConsumerTooSlowPolicy::WAIT_FOR_CONSUMER;
	taking.queueFullPolicy = iox::popo::QueueFullPolicy::BLOCK_PRODUCER;
	taking.queueCapacity = QUEUE;
	incoming = std::make_unique<iox::popo::UntypedSubscriber>(
		service(run, order->listens ? "there" : "back"), taking);
	outgoing = std::make_unique<iox::popo::UntypedPublisher>(
		service(run, order->listens ? "back" : "there"), sending);
	if (order->listens) {
		side_ready();
		if (!order->two_way)
			return;
	}
	for (int ms = 0; !outgoing->hasSubscribers(); ms++) {
		if (ms > SIDE_BEGIN_MS)
			side_fail("nobody subscribed");
		std::this_thread::sleep_for(std::chrono::milliseconds(1));
	}
}

void iceoryx_send(const void *message, uint32_t size)
{
	outgoing->loan(size)
		.and_then([&](void *&chunk) {
			std::memcpy(chunk, message, size);
			outgoing->publish(chunk);
		})
		.or_else([](auto &) { side_fail("loan"); });
}

const uint8_t *iceoryx_receive(uint32_t *size, int timeout_ms)
{
	const uint64_t until_ns = side_now_ns() + (uint64_t)timeout_ms * 1000000;

	if (held)
		incoming->release(held);
	held = nullptr;
	for (uint64_t look = 1; !held; look++) {
		incoming->take().and_then([](const void *chunk) { held = chunk; });
		if (!held && look % LOOKS == 0 && side_now_ns() > until_ns)
			return nullptr;
	}
	*size = iox::mepoo::ChunkHeader::fromUserPayload(held)->userPayloadSize();
	return static_cast<const uint8_t *>(held);
}

void iceoryx_flush()
{
}

/* RouDi aborts over processes that left without a word, and leaves its memory behind. */
void iceoryx_close()
{
	if (held)
		incoming->release(held);
	incoming.reset();
	outgoing.reset();
	std::exit(0);
}
} // namespace

const struct side_transport side_transport = {
	iceoryx_open,
	iceoryx_send,
	iceoryx_receive,
	iceoryx_flush,
	iceoryx_close,
};
