/* SPDX-License-Identifier: MIT */
#ifndef SOCKET_ADDRESS_H
#define SOCKET_ADDRESS_H
/* socket_address.h: ADDRESS:PORT as the kernel takes it; what follows a '#' is left out. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "side.h"

static inline struct sockaddr_in socket_address(const char *text)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	const char *colon = memrchr(text, ':', strcspn(text, "#"));
	char host[64] = "";

	if (colon && colon - text < (int)sizeof host)
		memcpy(host, text, (size_t)(colon - text));
	if (!inet_aton(host, &address.sin_addr)) {
		errno = EINVAL;
		side_fail(text);
	}
	address.sin_port = htons((uint16_t)atoi(colon + 1));
	return address;
}
#endif
