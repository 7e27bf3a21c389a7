/* SPDX-License-Identifier: MIT */
#include "vk_reader.h"

int vk_reader_open(struct vk_reader *reader, struct vk_client *client, struct vk_inlet *inlet,
		   const struct vk_message *stream, uint32_t sequence, int ordered)
{
	*reader = (struct vk_reader){
		.client = client,
		.inlet = inlet,
		.gather = vk_gather_new(sequence, ordered),
		.ring = vk_stream_class(stream->stream),
		.flow = vk_client_flow(stream),
	};
	return reader->gather ? 0 : -ENOMEM;
}

/* give_back lets the worker write over what was looked at. */
static void give_back(struct vk_reader *reader)
{
	vk_client_release(reader->client, reader->ring, reader->position);
	reader->lent = 0;
}

void vk_reader_close(struct vk_reader *reader)
{
	if (reader->lent)
		give_back(reader);
	if (reader->next < reader->found)
		vk_client_rewind(reader->client, reader->ring, reader->position);
	vk_gather_free(reader->gather);
	*reader = (struct vk_reader){ .gather = NULL };
}

/* describe describes the next records: how many, or like vk_client_receive. */
static int describe(struct vk_reader *reader)
{
	int found;

	reader->next = reader->found = 0;
	reader->position = reader->client->rx[reader->ring].head;
	found = vk_client_receive(reader->client, reader->ring, VK_CLIENT_ANY_FLOW,
				  VK_CLIENT_ANY_SEQUENCE, reader->entries, VK_READER_BATCH);
	if (found > 0)
		reader->found = (uint32_t)found;
	if (!found)
		vk_inlet_idle(reader->client, reader->inlet);
	return found;
}

/* take_record takes the next described record: like vk_gather_take, or -ENOMSG. */
static int take_record(struct vk_reader *reader, struct vk_whole *whole)
{
	const struct vk_entry *entry = &reader->entries[reader->next];
	const uint8_t *payload = reader->client->rx[reader->ring].data + entry->offset;
	int result;

	if (entry->kind != VK_RECORD_DATA || vk_client_flow(&entry->message) != reader->flow) {
		vk_client_rewind(reader->client, reader->ring, reader->position);
		reader->next = reader->found = 0;
		return -ENOMSG;
	}
	reader->next++;
	reader->position = entry->end;
	result = vk_gather_take(reader->gather, &entry->message, payload, entry->size, whole);
	if (result == 1 && whole->payload == payload)
		reader->lent = 1;
	else
		give_back(reader);
	vk_inlet_taken(reader->client, reader->inlet, entry->size, 1);
	reader->more = result == 1;
	return result;
}

int vk_reader_next(struct vk_reader *reader, struct vk_whole *whole)
{
	int result = 0;

	if (reader->lent)
		give_back(reader);
	if (reader->more)
		result = vk_gather_next(reader->gather, whole);
	reader->more = result == 1;
	while (!result) {
		if (reader->next == reader->found) {
			result = describe(reader);
			if (result <= 0)
				return result;
		}
		result = take_record(reader, whole);
	}
	return result;
}
