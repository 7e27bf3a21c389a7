/* SPDX-License-Identifier: MIT */
#include "vk_stream_end.h"

#include <errno.h>

PyTypeObject *vk_stream_end_type;
static PyObject *name_append, *name_payload, *name_popleft;

/* Whether an object of Python's is there and not empty; 1 also if that cannot be told. */
static int holds(PyObject *container)
{
	if (!container || PyObject_Size(container) == 0)
		return 0;
	PyErr_Clear();
	return 1;
}

/* Whether the ring's next record may go to the reader without Python's looking at it. */
static int plain(const struct vk_stream_end *end)
{
	const struct vk_client *client = end->client;

	return client && !end->careful && !VK_LOAD_RELAXED(&client->busy) &&
	       client->generation == VK_LOAD_RELAXED(&client->peer->generation) &&
	       !holds(end->queue) && !holds(end->early) && !holds(end->held);
}

/* A message's fields in the order of message.py's Message. */
static PyObject *message_of(const struct vk_stream_end *end, const struct vk_entry *entry)
{
	const struct vk_message *head = &entry->message;
	const char *payload = (const char *)end->client->rx[end->ring].data + entry->offset;
	PyObject *const values[] = {
		PyBytes_FromStringAndSize(payload, (Py_ssize_t)entry->size),
		PyLong_FromUnsignedLong(head->stream),
		PyLong_FromUnsignedLong(head->sequence),
		PyLong_FromUnsignedLong(head->correlation),
		PyLong_FromUnsignedLong(head->type),
		PyLong_FromUnsignedLong(head->flags),
		PyLong_FromUnsignedLong(head->priority),
		PyLong_FromUnsignedLongLong(head->time_ns),
	};
	PyObject *fields = PyTuple_New(sizeof values / sizeof *values), *message = NULL;

	for (Py_ssize_t n = 0; n < (Py_ssize_t)(sizeof values / sizeof *values); n++)
		if (!values[n] || !fields)
			Py_XDECREF(values[n]);
		else
			PyTuple_SetItem(fields, n, values[n]);
	if (!PyErr_Occurred())
		message = PyObject_Call(end->message, fields, NULL);
	Py_XDECREF(fields);
	return message;
}

/* Have Python make reports later that could not be made: there was an error. Returns 0, or -1 and
 * an exception. */
static int owe(struct vk_stream_end *end, int error)
{
	PyObject *none;

	if (!error)
		return 0;
	none = PyObject_CallMethod((PyObject *)end, "_owe_report", NULL);
	Py_XDECREF(none);
	return none ? 0 : -1;
}

/* Count a message that came. */
static void came(struct vk_stream_end *end, uint32_t size)
{
	end->expected++;
	end->received++;
	end->received_bytes += size;
}

/* Count a message that the reader takes. Returns like owe. */
static int took(struct vk_stream_end *end, uint64_t size)
{
	int error = vk_inlet_took(end->client, end->inlet, size);

	return error ? owe(end, error) : 0;
}

/* Let the peer know what was taken: the reader waits. Returns like owe. */
int vk_stream_end_idle(struct vk_stream_end *end)
{
	return owe(end, vk_inlet_idle(end->client, end->inlet));
}

/* Take the next message out of a queue that has one; NULL and an exception, or NULL for Python. */
static PyObject *pop(struct vk_stream_end *end)
{
	PyObject *message, *payload;
	Py_ssize_t size;

	if (!end->client || holds(end->owed))
		return NULL;
	message = PyObject_CallMethodObjArgs(end->queue, name_popleft, NULL);
	if (!message)
		return NULL;
	payload = PyObject_GetAttr(message, name_payload);
	size = payload ? PyObject_Size(payload) : -1;
	Py_XDECREF(payload);
	end->queue_size -= size < 0 ? 0 : (unsigned long long)size;
	if (size < 0 || took(end, (uint64_t)size))
		Py_CLEAR(message);
	return message;
}

/* Take the stream's next message out of the queue, or the ring if it is next there. */
enum vk_found vk_stream_end_take(struct vk_stream_end *end, PyObject **message)
{
	struct vk_client *client = end->client;
	struct vk_entry entry;
	struct vk_rx *rx;
	uint64_t begin;
	int count;

	*message = NULL;
	if (holds(end->queue) && !end->halting) {
		*message = pop(end);
		return *message || PyErr_Occurred() ? VK_FOUND : VK_FOUND_OTHER;
	}
	if (!plain(end))
		return VK_FOUND_OTHER;
	rx = &client->rx[end->ring];
	begin = rx->head;
	count = vk_client_receive(client, end->ring, vk_client_flow(&end->outlet->head),
				  end->expected, &entry, 1);
	if (!count && rx->head == rx->tail)
		return VK_FOUND_NOTHING;
	if (count <= 0)
		return VK_FOUND_OTHER;
	if (!entry.message.flags)
		*message = message_of(end, &entry);
	if (!*message) {
		vk_client_rewind(client, end->ring, begin);
		return PyErr_Occurred() ? VK_FOUND : VK_FOUND_OTHER;
	}
	vk_client_release(client, end->ring, entry.end);
	came(end, entry.size);
	if (took(end, entry.size))
		Py_CLEAR(*message);
	return VK_FOUND;
}

/* Put a plain message into the ring: 1, 0 if that is not to be had so easily. */
int vk_stream_end_put(struct vk_stream_end *end, PyObject *payload)
{
	Py_ssize_t size;
	Py_buffer view;
	char *data;
	int error;

	if (!end->client)
		return 0;
	if (PyBytes_CheckExact(payload)) {
		if (PyBytes_AsStringAndSize(payload, &data, &size) || size > VK_SHARDED_MAX)
			return 0;
		return !vk_client_send(end->client, end->outlet, (const uint8_t *)data,
				       (uint32_t)size);
	}
	if (!PyByteArray_CheckExact(payload) && !PyMemoryView_Check(payload))
		return 0;
	if (PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)) {
		PyErr_Clear(); /* Python says what is wrong with it */
		return 0;
	}
	error = view.len > VK_SHARDED_MAX ||
		vk_client_send(end->client, end->outlet, view.buf, (uint32_t)view.len);
	PyBuffer_Release(&view);
	return !error;
}

static PyObject *end_send(PyObject *self, PyObject *payload)
{
	if (vk_stream_end_put((struct vk_stream_end *)self, payload))
		return Py_NewRef(Py_None);
	return PyObject_CallMethod(self, "_send", "O", payload);
}

static PyObject *end_take(PyObject *self, PyObject *none)
{
	struct vk_stream_end *end = (struct vk_stream_end *)self;
	PyObject *message;

	(void)none;
	if (!holds(end->queue))
		return Py_NewRef(Py_None);
	message = pop(end);
	return message || PyErr_Occurred() ? message : PyObject_CallMethod(self, "_take", NULL);
}

static PyObject *end_taken(PyObject *self, PyObject *args)
{
	struct vk_stream_end *end = (struct vk_stream_end *)self;
	unsigned int count;
	long long size;

	if (!PyArg_ParseTuple(args, "LI:taken", &size, &count))
		return NULL;
	if (end->client && owe(end, vk_inlet_taken(end->client, end->inlet, (uint64_t)size, count)))
		return NULL;
	return Py_NewRef(Py_None);
}

static PyObject *end_idle(PyObject *self, PyObject *none)
{
	struct vk_stream_end *end = (struct vk_stream_end *)self;

	(void)none;
	return end->client && vk_stream_end_idle(end) ? NULL : Py_NewRef(Py_None);
}

static PyObject *end_report(PyObject *self, PyObject *none)
{
	struct vk_stream_end *end = (struct vk_stream_end *)self;

	(void)none;
	return PyBool_FromLong(!end->client || vk_inlet_pay(end->client, end->inlet) != -EAGAIN);
}

/* Let go of what Python owns. */
static void leave(struct vk_stream_end *end)
{
	if (end->client)
		vk_inlet_forget(end->client, end->inlet);
	end->client = NULL;
	Py_CLEAR(end->memory);
	Py_CLEAR(end->message);
}

static PyObject *end_begin(PyObject *self, PyObject *args)
{
	struct vk_stream_end *end = (struct vk_stream_end *)self;
	unsigned long long client, outlet, inlet;
	PyObject *memory, *message;

	if (!PyArg_ParseTuple(args, "OKKKO:_begin", &memory, &client, &outlet, &inlet, &message))
		return NULL;
	leave(end);
	end->memory = Py_NewRef(memory);
	end->message = Py_NewRef(message);
	end->client = (struct vk_client *)(uintptr_t)client;
	end->outlet = (struct vk_outlet *)(uintptr_t)outlet;
	end->inlet = (struct vk_inlet *)(uintptr_t)inlet;
	end->ring = vk_stream_class(end->outlet->head.stream);
	return Py_NewRef(Py_None);
}

void vk_stream_end_free(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	freefunc give_back = (freefunc)PyType_GetSlot(type, Py_tp_free);

	give_back(self);
	Py_DECREF(type);
}

static void end_dealloc(PyObject *self)
{
	struct vk_stream_end *end = (struct vk_stream_end *)self;

	leave(end);
	Py_CLEAR(end->queue);
	Py_CLEAR(end->early);
	Py_CLEAR(end->held);
	Py_CLEAR(end->owed);
	vk_stream_end_free(self);
}

static PyMemberDef end_members[] = {
	{ "queue", T_OBJECT_EX, offsetof(struct vk_stream_end, queue), 0, NULL },
	{ "early", T_OBJECT_EX, offsetof(struct vk_stream_end, early), 0, NULL },
	{ "held", T_OBJECT_EX, offsetof(struct vk_stream_end, held), 0, NULL },
	{ "owed", T_OBJECT_EX, offsetof(struct vk_stream_end, owed), 0, NULL },
	{ "received", T_ULONGLONG, offsetof(struct vk_stream_end, received), 0, NULL },
	{ "received_bytes", T_ULONGLONG, offsetof(struct vk_stream_end, received_bytes), 0, NULL },
	{ "queue_size", T_ULONGLONG, offsetof(struct vk_stream_end, queue_size), 0, NULL },
	{ "expected", T_UINT, offsetof(struct vk_stream_end, expected), 0, NULL },
	{ "number", T_INT, offsetof(struct vk_stream_end, number), 0, NULL },
	{ "generation", T_UINT, offsetof(struct vk_stream_end, generation), 0, NULL },
	{ "careful", T_BOOL, offsetof(struct vk_stream_end, careful), 0, NULL },
	{ "halting", T_BOOL, offsetof(struct vk_stream_end, halting), 0, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyMethodDef end_methods[] = {
	{ "send", end_send, METH_O,
	  "send($self, payload, /)\n--\n\n"
	  "Send a plain message, or raise WouldBlockError." },
	{ "take", end_take, METH_NOARGS,
	  "take($self, /)\n--\n\n"
	  "Return the next message of the queue if there is one." },
	{ "taken", end_taken, METH_VARARGS,
	  "taken($self, size, count, /)\n--\n\n"
	  "Note that the reader has taken messages of *size* bytes in all: the peer may send." },
	{ "idle", end_idle, METH_NOARGS,
	  "idle($self, /)\n--\n\n"
	  "Note that the reader waits: let the peer know what was taken." },
	{ "report", end_report, METH_NOARGS,
	  "report($self, /)\n--\n\n"
	  "Make the reports that are owed; False = no room now." },
	{ "_begin", end_begin, METH_VARARGS,
	  "_begin($self, memory, client, outlet, inlet, message, /)\n--\n\n"
	  "Work on structs at addresses, in memory that is kept, and make messages of a type." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot end_slots[] = {
	{ Py_tp_doc, "One end of a stream, as far as the usual message goes." },
	{ Py_tp_methods, end_methods },
	{ Py_tp_members, end_members },
	{ Py_tp_dealloc, end_dealloc },
	{ 0, NULL },
};

static PyType_Spec end_spec = {
	.name = "valkyrie.dataplane._stream.End",
	.basicsize = sizeof(struct vk_stream_end),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
	.slots = end_slots,
};

/* From when on a queue without a window is full. */
struct full {
	Py_ssize_t messages;
	unsigned long long bytes;
};

/* Put a described record into its stream's queue: 1, 0 if Python has to look at it, or -1 and an
 * exception. */
static int enqueue(struct vk_stream_end *end, const struct vk_entry *entry, const struct full *full)
{
	PyObject *message, *none;

	if (end->careful || entry->kind != VK_RECORD_DATA || entry->message.flags ||
	    entry->message.code || entry->message.sequence != end->expected ||
	    entry->message.flow_generation != end->generation || !end->client || !end->queue ||
	    holds(end->early))
		return 0;
	if (end->halting &&
	    (end->queue_size >= full->bytes || PyObject_Size(end->queue) >= full->messages))
		return 0;
	message = message_of(end, entry);
	if (!message)
		return -1;
	none = PyObject_CallMethodObjArgs(end->queue, name_append, message, NULL);
	Py_DECREF(message);
	if (!none)
		return -1;
	Py_DECREF(none);
	came(end, entry->size);
	end->queue_size += entry->size;
	return 1;
}

/* The stream of a number; NULL if there is none of ours, or with an exception. */
static struct vk_stream_end *known(PyObject *flows, uint32_t number)
{
	PyObject *key = PyLong_FromUnsignedLong(number), *flow;

	flow = key ? PyDict_GetItemWithError(flows, key) : NULL;
	Py_XDECREF(key);
	return flow && PyObject_TypeCheck(flow, vk_stream_end_type) ? (struct vk_stream_end *)flow :
								      NULL;
}

PyObject *vk_stream_intake(PyObject *self, PyObject *args)
{
	struct vk_client *client;
	unsigned long long address;
	struct vk_stream_end *end = NULL;
	PyObject *flows, *woken;
	struct vk_entry entry;
	struct full full;
	unsigned int ring;
	int count = 0, went;

	(void)self;
	if (!PyArg_ParseTuple(args, "KIO!O!nK:intake", &address, &ring, &PyDict_Type, &flows,
			      &PySet_Type, &woken, &full.messages, &full.bytes))
		return NULL;
	client = (struct vk_client *)(uintptr_t)address;
	while (count < VK_CLIENT_BATCH && ring < VK_RINGS_MAX) {
		const uint64_t begin = client->rx[ring].head;

		if (vk_client_receive(client, ring, VK_CLIENT_ANY_FLOW, VK_CLIENT_ANY_SEQUENCE,
				      &entry, 1) <= 0)
			break; /* what is wrong meets the next call */
		if (!end || end->number != (int)entry.message.flow)
			end = known(flows, entry.message.flow);
		went = end ? enqueue(end, &entry, &full) : 0;
		if (went <= 0) {
			vk_client_rewind(client, ring, begin);
			break;
		}
		count++;
		if (PySet_Add(woken, (PyObject *)end))
			break;
	}
	return PyErr_Occurred() ? NULL : PyLong_FromLong(count);
}

int vk_stream_end_ready(PyObject *module)
{
	name_append = PyUnicode_InternFromString("append");
	name_payload = PyUnicode_InternFromString("payload");
	name_popleft = PyUnicode_InternFromString("popleft");
	if (!name_append || !name_payload || !name_popleft)
		return -1;
	vk_stream_end_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &end_spec, NULL);
	return vk_stream_end_type ? PyModule_AddType(module, vk_stream_end_type) : -1;
}
