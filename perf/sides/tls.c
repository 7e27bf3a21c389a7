/* SPDX-License-Identifier: MIT */
/* tls.c: bytes over a socket by TLS 1.3 with AES-256-GCM, by OpenSSL. The address ends in '#'
 * and the path of the receiver's certificate and key, which the sender checks it by.
 */
#include "wire.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>

enum { RECORD = SSL3_RT_MAX_PLAIN_LENGTH, READ_AHEAD = 4 * (RECORD + 256) };

static SSL *tls;

static void tls_fail(const char *what)
{
	ERR_print_errors_fp(stderr);
	side_fail(what);
}

void wire_open(int fd, const struct side_order *order)
{
	const char *mark = strchr(order->address, '#'), *pem = mark ? mark + 1 : "";
	SSL_CTX *context = SSL_CTX_new(order->listens ? TLS_server_method() : TLS_client_method());

	if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
	    !SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384"))
		tls_fail("TLS 1.3");
	SSL_CTX_set_read_ahead(context, 1); /* many records a read, instead of two reads a record */
	SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD);
	SSL_CTX_set_num_tickets(context, 0);
	if (order->listens) {
		if (SSL_CTX_use_certificate_chain_file(context, pem) != 1 ||
		    SSL_CTX_use_PrivateKey_file(context, pem, SSL_FILETYPE_PEM) != 1)
			tls_fail(pem);
	} else {
		SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
		if (SSL_CTX_load_verify_locations(context, pem, NULL) != 1)
			tls_fail(pem);
	}
	tls = SSL_new(context);
	if (!tls || !SSL_set_fd(tls, fd) || (!order->listens && !SSL_set1_host(tls, "localhost")))
		tls_fail("SSL_new");
	if ((order->listens ? SSL_accept(tls) : SSL_connect(tls)) != 1)
		tls_fail("TLS handshake");
}

static void write_all(const void *bytes, size_t size)
{
	size_t written;

	if (size && SSL_write_ex(tls, bytes, size, &written) != 1)
		tls_fail("SSL_write");
}

/* One record takes the beginning of all parts; what is left of the last one is sealed from where it
 * lies. */
void wire_write(struct iovec *parts, int count)
{
	static uint8_t record[RECORD];
	size_t used = 0;

	if (count == 1) {
		write_all(parts->iov_base, parts->iov_len);
		return;
	}
	for (; count; parts++, count--) {
		size_t n = parts->iov_len < RECORD - used ? parts->iov_len : RECORD - used;

		memcpy(record + used, parts->iov_base, n);
		used += n;
		if (n == parts->iov_len && count > 1)
			continue;
		write_all(record, used);
		write_all((const uint8_t *)parts->iov_base + n, parts->iov_len - n);
		used = 0;
	}
}

ssize_t wire_read(void *to, size_t room)
{
	size_t came;

	return SSL_read_ex(tls, to, room, &came) == 1 ? (ssize_t)came : 0;
}
