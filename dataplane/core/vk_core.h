/* SPDX-License-Identifier: MIT */
#ifndef VK_CORE_H
#define VK_CORE_H
/* vk_core.h: everything that valkyrie.dataplane._core gives to Python. Constants and structs come
 * from the ABI headers; functions come from core_sources (meson.build), never from the worker
 * library.
 */
#include "vk_blast.h"
#include "vk_bpf.h"
#include "vk_client.h"
#include "vk_confine.h"
#include "vk_inlet.h"
#include "vk_mac.h"
#include "vk_packet.h"
#include "vk_reader.h"
#include "vk_tokens.h"
#include "vk_udp.h"
#include "vk_slice.h"
#include "vk_wake.h"
#include "vk_worker.h"
#include "vk_xsk.h"
#endif
