// SPDX-License-Identifier: MIT
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "vk_bpf.h"
#include "vk_port.h"

/* Enough for libbpf's summary of a rejected program; the beginning is dropped when it is not. */
enum { LOG_SIZE = 16384 };
static _Thread_local char log_text[LOG_SIZE];
static _Thread_local size_t log_size;

static int log_line(enum libbpf_print_level level, const char *format, va_list arguments)
{
	char line[LOG_SIZE / 2];
	size_t size;
	int n;

	if (level == LIBBPF_DEBUG)
		return 0;
	n = vsnprintf(line, sizeof(line), format, arguments);
	if (n <= 0)
		return 0;
	size = (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
	if (log_size + size >= sizeof(log_text)) {
		size_t gone = log_size + size + 1 - sizeof(log_text);

		memmove(log_text, log_text + gone, log_size - gone);
		log_size -= gone;
	}
	memcpy(log_text + log_size, line, size);
	log_size += size;
	log_text[log_size] = 0;
	return 0;
}

const char *vk_bpf_log(void)
{
	return log_text;
}

void vk_bpf_log_clear(void)
{
	log_size = 0;
	log_text[0] = 0;
}

struct bpf_object *vk_bpf_open(const void *bytes, size_t size, const char *name, int *error)
{
	LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name);
	struct bpf_object *object;

	libbpf_set_print(log_line);
	object = bpf_object__open_mem(bytes, size, &options);
	*error = object ? 0 : -errno;
	return object;
}

void vk_bpf_close(struct bpf_object *object)
{
	bpf_object__close(object);
}

/* store writes value into an unsigned variable of size bytes, in this host's byte order. */
static int store(void *variable, uint32_t size, uint64_t value)
{
	if (size < sizeof(value) && value >> (size * 8))
		return -ERANGE;
	switch (size) {
	case 1:
		*(uint8_t *)variable = (uint8_t)value;
		return 0;
	case 2:
		*(uint16_t *)variable = (uint16_t)value;
		return 0;
	case 4:
		*(uint32_t *)variable = (uint32_t)value;
		return 0;
	case 8:
		*(uint64_t *)variable = value;
		return 0;
	default:
		return -EINVAL;
	}
}

int vk_bpf_set(struct bpf_object *object, const char *variable, uint64_t value)
{
	const struct btf *btf = bpf_object__btf(object);
	struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata");
	const struct btf_var_secinfo *section;
	const struct btf_type *type;
	size_t room;
	uint8_t *area;
	int id;

	area = map ? (uint8_t *)bpf_map__initial_value(map, &room) : NULL;
	id = btf ? btf__find_by_name_kind(btf, ".rodata", BTF_KIND_DATASEC) : -1;
	if (!area || id < 0)
		return -ENOENT;
	type = btf__type_by_id(btf, (uint32_t)id);
	section = btf_var_secinfos(type);
	for (uint32_t i = 0; i < btf_vlen(type); i++, section++) {
		const struct btf_type *entry = btf__type_by_id(btf, section->type);

		if (strcmp(btf__name_by_offset(btf, entry->name_off), variable) != 0)
			continue;
		if ((size_t)section->offset + section->size > room)
			return -EINVAL;
		return store(area + section->offset, section->size, value);
	}
	return -ENOENT;
}

int vk_bpf_reuse(struct bpf_object *object, const char *map, int fd)
{
	struct bpf_map *found = bpf_object__find_map_by_name(object, map);

	return found ? bpf_map__reuse_fd(found, fd) : -ENOENT;
}

int vk_bpf_load(struct bpf_object *object)
{
	return bpf_object__load(object);
}

int vk_bpf_program(struct bpf_object *object, const char *name)
{
	struct bpf_program *program = bpf_object__find_program_by_name(object, name);

	return program ? bpf_program__fd(program) : -ENOENT;
}

int vk_bpf_map_fd(struct bpf_object *object, const char *name)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object, name);

	return map ? bpf_map__fd(map) : -ENOENT;
}

int vk_bpf_map_info(int fd, struct vk_bpf_map *info)
{
	struct bpf_map_info kernel = { 0 };
	uint32_t size = sizeof(kernel);
	int error = bpf_obj_get_info_by_fd(fd, &kernel, &size);

	if (error)
		return error;
	info->type = kernel.type;
	info->key_size = kernel.key_size;
	info->value_size = kernel.value_size;
	info->entries = kernel.max_entries;
	info->flags = kernel.map_flags;
	return 0;
}

const char *vk_bpf_map_name(struct bpf_object *object, uint32_t index)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, object) {
		if (index-- == 0)
			return bpf_map__name(map);
	}
	return NULL;
}

int vk_bpf_declared(struct bpf_object *object, const char *map, struct vk_bpf_map *info)
{
	struct bpf_map *found = bpf_object__find_map_by_name(object, map);

	if (!found)
		return -ENOENT;
	info->type = bpf_map__type(found);
	info->key_size = bpf_map__key_size(found);
	info->value_size = bpf_map__value_size(found);
	info->entries = bpf_map__max_entries(found);
	info->flags = bpf_map__map_flags(found);
	return 0;
}

int vk_bpf_update(int map, const void *key, const void *value, uint64_t flags)
{
	return bpf_map_update_elem(map, key, value, flags);
}

int vk_bpf_lookup(int map, const void *key, void *value)
{
	return bpf_map_lookup_elem(map, key, value);
}

int vk_bpf_delete(int map, const void *key)
{
	return bpf_map_delete_elem(map, key);
}

int vk_bpf_next(int map, const void *key, void *next)
{
	return bpf_map_get_next_key(map, key, next);
}

static void sum_up(uint32_t cpus, uint32_t numbers, const uint64_t *values, uint64_t *sums)
{
	memset(sums, 0, numbers * sizeof *sums);
	for (uint32_t cpu = 0; cpu < cpus; cpu++) {
		for (uint32_t i = 0; i < numbers; i++)
			sums[i] += values[cpu * numbers + i];
	}
}

int vk_bpf_sums(int map, uint32_t entries, uint32_t numbers, uint64_t *sums)
{
	uint32_t batch = 0, count = entries;
	int error = -ENOMEM, cpus = vk_bpf_cpus();
	uint64_t *values;
	uint32_t *keys;

	if (cpus < 0)
		return cpus;
	values = calloc((size_t)entries * (uint32_t)cpus, numbers * sizeof *values);
	keys = calloc(entries, sizeof *keys);
	if (values && keys)
		error = bpf_map_lookup_batch(map, NULL, &batch, keys, values, &count, NULL);
	if (error == -ENOENT)
		error = 0; /* the end of the map, not a failure */
	for (uint32_t i = 0; i < count && !error; i++) {
		const uint64_t *from = values + (size_t)i * (uint32_t)cpus * numbers;

		if (keys[i] < entries)
			sum_up((uint32_t)cpus, numbers, from, sums + (size_t)keys[i] * numbers);
	}
	free(values);
	free(keys);
	return error;
}

int vk_bpf_cpus(void)
{
	return libbpf_num_possible_cpus();
}

int vk_bpf_attach(int program, uint32_t ifindex, uint32_t mode)
{
	LIBBPF_OPTS(bpf_link_create_opts, options,
		    .flags = mode == VK_XDP_GENERIC ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE);

	return bpf_link_create(program, (int)ifindex, BPF_XDP, &options);
}

int vk_bpf_replace(int link, int program)
{
	return bpf_link_update(link, program, NULL);
}

int vk_bpf_attached(uint32_t ifindex, struct vk_bpf_attached *attached)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, query);
	struct bpf_prog_info info = { 0 };
	uint32_t size = sizeof(info);
	int error = bpf_xdp_query((int)ifindex, 0, &query), fd;

	memset(attached, 0, sizeof(*attached));
	if (error)
		return error;
	attached->program_id = query.prog_id;
	if (query.attach_mode == XDP_ATTACHED_DRV)
		attached->mode = VK_XDP_NATIVE;
	if (query.attach_mode == XDP_ATTACHED_SKB)
		attached->mode = VK_XDP_GENERIC;
	fd = query.prog_id ? bpf_prog_get_fd_by_id(query.prog_id) : -1;
	if (fd < 0)
		return 0;
	if (!bpf_obj_get_info_by_fd(fd, &info, &size))
		memcpy(attached->name, info.name, sizeof(attached->name));
	close(fd);
	return 0;
}

int vk_bpf_pin(int fd, const char *path)
{
	return bpf_obj_pin(fd, path);
}

int vk_bpf_get(const char *path)
{
	return bpf_obj_get(path);
}

int vk_bpf_test_run(int program, const void *packet, size_t packet_size, void *after,
		    struct vk_bpf_run *run)
{
	struct xdp_md in = { .data_end = (uint32_t)packet_size,
			     .ingress_ifindex = run->ifindex,
			     .rx_queue_index = run->queue };
	struct xdp_md out = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet,
		    .data_size_in = (uint32_t)packet_size, .data_out = after,
		    .data_size_out = run->size, .ctx_in = &in, .ctx_size_in = sizeof(in),
		    .ctx_out = &out, .ctx_size_out = sizeof(out), .repeat = (int)run->repeat);
	int error = bpf_prog_test_run_opts(program, &options);

	if (error)
		return error;
	run->result = options.retval;
	run->duration_ns = options.duration;
	run->size = options.data_size_out;
	run->meta_size = out.data - out.data_meta;
	return 0;
}
