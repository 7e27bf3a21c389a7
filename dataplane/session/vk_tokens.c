/* SPDX-License-Identifier: MIT */
#include "vk_tokens.h"

#include "vk_frame.h"
#include "vk_run.h"
#include "vk_siphash.h"

#include <string.h>

/* SESSION and TOKEN as they begin a chain. */
struct lead {
	struct vk_ext_session session;
	struct vk_ext_token token;
};

static uint32_t look(const uint32_t *field)
{
	return __atomic_load_n(field, __ATOMIC_RELAXED); /* pairs with nothing: as in eBPF */
}

/* read_lead copies the beginning of a datagram's chain; 0: it is another one. */
static int read_lead(struct lead *lead, const struct vk_rx_frame *datagram)
{
	const struct vk_header *header = (const void *)datagram->data;

	if (header->ext < sizeof *lead / VK_EXT_WORD ||
	    datagram->size < VK_HEADER_SIZE + sizeof *lead)
		return 0;
	memcpy(lead, datagram->data + VK_HEADER_SIZE, sizeof *lead);
	return lead->session.ext.kind == VK_EXT_SESSION &&
	       lead->session.ext.words == sizeof lead->session / VK_EXT_WORD &&
	       lead->token.ext.kind == VK_EXT_TOKEN &&
	       lead->token.ext.words == sizeof lead->token / VK_EXT_WORD;
}

/* read_source writes a source address as tags have it: IPv4 mapped into IPv6. */
static void read_source(uint64_t address[2], const struct vk_rx_frame *datagram)
{
	uint8_t bytes[16] = { [10] = 0xff, [11] = 0xff };

	if (datagram->family == 4)
		memcpy(bytes + 12, datagram->source, 4);
	else
		memcpy(bytes, datagram->source, sizeof bytes);
	memcpy(address, bytes, sizeof bytes);
}

uint32_t vk_tokens_check(const struct vk_guard *guard, uint32_t class,
			 const struct vk_rx_frame *datagram, uint64_t now_ns)
{
	const struct vk_master *master;
	uint32_t generation, kind;
	uint64_t address[2], tag;
	struct lead lead;

	if (!(look(&guard->checks) & VK_GUARD_TOKENS & 1u << class))
		return VK_STEER;
	if (!read_lead(&lead, datagram))
		return VK_DROP_TOKEN_MISSING;
	generation = __builtin_bswap16(lead.token.ext.arg);
	master = &guard->masters[generation % VK_MASTERS];
	if (!look(&master->valid) || (look(&master->generation) & 0xffff) != generation)
		return VK_DROP_TOKEN_GENERATION;
	if (now_ns >> VK_TICK_SHIFT >= __builtin_bswap32(lead.token.expiry))
		return VK_DROP_TOKEN_EXPIRED;
	read_source(address, datagram);
	kind = lead.token.ext.arg | (uint32_t)__builtin_bswap16(VK_MAC_TOKEN) << 16;
	tag = vk_mac_tag(master, address[0], address[1], lead.session.session, lead.token.expiry,
			 kind);
	return tag == ((uint64_t)__builtin_bswap32(lead.token.tag_high) << 32 |
		       __builtin_bswap32(lead.token.tag_low)) ?
		       VK_STEER :
		       VK_DROP_TOKEN_FORGED;
}

int vk_tokens_let_in(struct vk_run *run, uint32_t port, uint32_t class,
		     const struct vk_rx_frame *datagram)
{
	const struct vk_guard *guard;
	uint32_t verdict;

	/* Who gets a joined one into control's socket has a cookie of that address and port. */
	if (!datagram->joined || class == VK_CLASS_CONTROL)
		return 1;
	guard = run->rx[port]->port->guard;
	if (!guard)
		return 1;
	verdict = vk_tokens_check(guard, class, datagram, run->now_ns);
	if (verdict == VK_STEER)
		return 1;
	vk_count_row(run, class)[VK_DROP_FRAME_TOKEN_MISSING + verdict - VK_DROP_TOKEN_MISSING]++;
	return 0;
}
