/* SPDX-License-Identifier: MIT */
#ifndef VK_PROOF_H
#define VK_PROOF_H
/* vk_proof.h: what proves CLOSE, PING and PONG of a session with keys (VK_OPTION_PROOF).
 */
#include <stdint.h>

/* vk_proof_make writes the VK_PROOF_SIZE bytes that prove a control frame of a type, whose payload
 * without the proof is said. Returns 0, or -EIO. */
int vk_proof_make(const uint8_t key[32], uint8_t type, const uint8_t *said, uint32_t size,
		  uint8_t *proof);

/* vk_proof_good says whether a proof is that of the frame; takes as long for every wrong one. */
int vk_proof_good(const uint8_t key[32], uint8_t type, const uint8_t *said, uint32_t size,
		  const uint8_t *proof);
#endif
