/* SPDX-License-Identifier: MIT */
#ifndef VK_BPF_H
#define VK_BPF_H
/* vk_bpf.h: what the loader needs of libbpf and of the kernel's bpf(2), with -errno for errors.
 * Cold path only. What libbpf has to say on the way is kept for the error message: vk_bpf_log.
 * Needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN to load and attach; operations on maps and links
 * that are open already need nothing.
 */
#ifndef VK_CDEF
#include <stddef.h>
#include <stdint.h>
#endif

struct bpf_object;

enum vk_bpf_const {
	VK_BPF_NAME_SIZE = 16, /* of a program's name in the kernel, with its NUL */
};

/* A map as the kernel has it. */
struct vk_bpf_map {
	uint32_t type;
	uint32_t key_size;
	uint32_t value_size;
	uint32_t entries;
	uint32_t flags;
};

/* How XDP hangs on an interface. */
struct vk_bpf_attached {
	uint32_t program_id; /* 0 = none */
	uint32_t
		mode; /* enum vk_xdp_mode: VK_XDP_NATIVE or VK_XDP_GENERIC; 0 = none or offloaded */
	uint8_t name[VK_BPF_NAME_SIZE];
};

/* One run of a program over a packet. */
struct vk_bpf_run {
	uint32_t repeat;
	uint32_t ifindex; /* of this network namespace; 0 = its loopback device */
	uint32_t queue;
	uint32_t result; /* out: what the program returned */
	uint32_t duration_ns; /* out: average over the repeats */
	uint32_t size; /* in: bytes of room for the packet afterwards; out: bytes of it */
	uint32_t meta_size; /* out: bytes of metadata in front of it, part of size */
};

/* vk_bpf_log returns libbpf's messages on this thread since vk_bpf_log_clear; never NULL. */
const char *vk_bpf_log(void);
void vk_bpf_log_clear(void);

/* vk_bpf_open parses an ELF object of size bytes. Returns NULL and sets *error to -errno on
 * failure. Close with vk_bpf_close, which also closes the program's and the maps' descriptors. */
struct bpf_object *vk_bpf_open(const void *bytes, size_t size, const char *name, int *error);
void vk_bpf_close(struct bpf_object *object);

/* vk_bpf_set writes a `const volatile` unsigned variable before load. -ENOENT: no variable of that
 * name, -ERANGE: the value does not fit it. */
int vk_bpf_set(struct bpf_object *object, const char *variable, uint64_t value);

/* vk_bpf_reuse makes the object, before load, use an existing map (fd is duplicated). */
int vk_bpf_reuse(struct bpf_object *object, const char *map, int fd);

/* vk_bpf_load gives maps and programs to the kernel. */
int vk_bpf_load(struct bpf_object *object);

/* vk_bpf_program, vk_bpf_map_fd return a descriptor the object owns, or -ENOENT. */
int vk_bpf_program(struct bpf_object *object, const char *name);
int vk_bpf_map_fd(struct bpf_object *object, const char *name);

/* vk_bpf_map_info describes an open map. */
int vk_bpf_map_info(int fd, struct vk_bpf_map *info);

/* vk_bpf_map_name returns the name of the object's map at index, NULL past the last. */
const char *vk_bpf_map_name(struct bpf_object *object, uint32_t index);

/* vk_bpf_declared describes a map as the object declares it, loaded or not; -ENOENT. */
int vk_bpf_declared(struct bpf_object *object, const char *map, struct vk_bpf_map *info);

/* vk_bpf_update, vk_bpf_lookup, vk_bpf_delete and vk_bpf_next work on one element, of the sizes
 * that vk_bpf_map_info tells; flags are BPF_ANY, BPF_NOEXIST, BPF_EXIST. */
int vk_bpf_update(int map, const void *key, const void *value, uint64_t flags);
int vk_bpf_lookup(int map, const void *key, void *value);
int vk_bpf_delete(int map, const void *key);
int vk_bpf_next(int map, const void *key, void *next); /* key NULL: the first; -ENOENT: the end */

/* vk_bpf_sums reads a whole per-CPU array in one call, each of whose entries is numbers of 8 bytes:
 * sums gets those of entry 0 over all CPUs, then those of entry 1. Returns 0 or -errno. */
int vk_bpf_sums(int map, uint32_t entries, uint32_t numbers, uint64_t *sums);

/* vk_bpf_cpus returns how many values an element of a per-CPU map has. */
int vk_bpf_cpus(void);

/* vk_bpf_attach hangs an XDP program on an interface in a mode (enum vk_xdp_mode, NATIVE or
 * GENERIC) and returns a link: the program stays as long as the descriptor or a pin of it. */
int vk_bpf_attach(int program, uint32_t ifindex, uint32_t mode);

/* vk_bpf_replace swaps a link's program atomically: every packet meets the old one or the new. */
int vk_bpf_replace(int link, int program);

/* vk_bpf_attached tells which XDP program an interface of this network namespace has. */
int vk_bpf_attached(uint32_t ifindex, struct vk_bpf_attached *attached);

/* vk_bpf_pin gives a map, program or link a name in the bpf file system; vk_bpf_get returns a new
 * descriptor for one. */
int vk_bpf_pin(int fd, const char *path);
int vk_bpf_get(const char *path);

/* vk_bpf_test_run runs an XDP program over a packet without sending anything. */
int vk_bpf_test_run(int program, const void *packet, size_t packet_size, void *after,
		    struct vk_bpf_run *run);
#endif
