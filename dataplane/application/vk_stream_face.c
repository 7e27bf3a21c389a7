/* SPDX-License-Identifier: MIT */
/* vk_stream_face.c: what applications call once a message between hosts: _stream.Face, of which
 * SyncStream (stream.py) is a subclass; and the module. What is not the usual case is the
 * subclass's (_send, _recv), with the arguments as they came.
 */
#include "vk_stream_end.h"

struct face {
	PyObject_HEAD PyObject *end;
};

/* The end, unless this face has none, or another thread is within a call at the attachment. */
static struct vk_stream_end *end_of(PyObject *self)
{
	PyObject *end = ((struct face *)self)->end;
	const struct vk_client *client;

	if (!end || !PyObject_TypeCheck(end, vk_stream_end_type))
		return NULL;
	client = ((struct vk_stream_end *)end)->client;
	if (client && client->engaged && client->engaged != PyThread_get_thread_ident())
		return NULL;
	return (struct vk_stream_end *)end;
}

/* Have Python's method do it, with the arguments as they came. */
static PyObject *as_usual(PyObject *self, const char *method, PyObject *const *args,
			  Py_ssize_t count, PyObject *names)
{
	PyObject *call = PyObject_GetAttrString(self, method), *result = NULL;
	PyObject *all = PyTuple_New(count), *named = PyDict_New();
	int error = !call || !all || !named;

	for (Py_ssize_t n = 0; !error && n < count; n++)
		PyTuple_SetItem(all, n, Py_NewRef(args[n]));
	for (Py_ssize_t n = 0; !error && names && n < PyTuple_Size(names); n++)
		error = PyDict_SetItem(named, PyTuple_GetItem(names, n), args[count + n]);
	if (!error)
		result = PyObject_Call(call, all, named);
	Py_XDECREF(named);
	Py_XDECREF(all);
	Py_XDECREF(call);
	return result;
}

static PyObject *face_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	struct vk_stream_end *end = end_of(self);

	if (end && count == 1 && !names && vk_stream_end_put(end, args[0]))
		return Py_NewRef(Py_None);
	return as_usual(self, "_send", args, count, names);
}

/* A time-out as nanoseconds, negative for none. Returns 0, or -1 for what Python has to look at. */
static int to_ns(PyObject *seconds, int64_t *ns)
{
	double value;

	*ns = -1;
	if (!seconds || seconds == Py_None)
		return 0;
	if (!PyFloat_CheckExact(seconds) && !PyLong_CheckExact(seconds))
		return -1;
	value = PyFloat_AsDouble(seconds);
	PyErr_Clear();
	if (!(value > 0 && value < 1e9))
		return -1;
	*ns = (int64_t)(value * 1e9);
	return 0;
}

/* Wait until there is something to do or the time is over, while other threads run: 1, 0, -1 with
 * an exception, or -EINTR. Whatever else goes wrong meets Python's own wait. */
static int wait_for(struct vk_stream_end *end, int64_t begin, int64_t limit_ns)
{
	struct vk_client *client = end->client;
	int64_t left = limit_ns;
	int result;

	if (limit_ns >= 0) {
		left -= vk_spin_clock() - begin;
		left = left > 0 ? left : 0;
	}
	Py_BEGIN_ALLOW_THREADS;
	result = vk_client_wait(client, left);
	Py_END_ALLOW_THREADS;
	if (result == -EINTR)
		return PyErr_CheckSignals() ? -1 : -EINTR;
	return result > 0;
}

/* The next message of a stream; NULL without an exception leaves it to Python. */
static PyObject *next_message(struct vk_stream_end *end, PyObject *timeout, int64_t *begin)
{
	PyObject *message;
	int64_t limit_ns;
	enum vk_found found = vk_stream_end_take(end, &message);
	int waited = 0;

	if (found != VK_FOUND_NOTHING || to_ns(timeout, &limit_ns))
		return message;
	end->client->engaged = PyThread_get_thread_ident();
	*begin = vk_spin_clock();
	while (found == VK_FOUND_NOTHING && waited <= 0) {
		if (!waited && vk_stream_end_idle(end))
			return NULL;
		waited = wait_for(end, *begin, limit_ns);
		if (waited == -1 || !waited)
			return NULL;
		found = vk_stream_end_take(end, &message);
	}
	return message;
}

/* Have Python look at the other rings now and then, while this one always has something. Returns 0,
 * or -1 and an exception. */
static int look_around(PyObject *self, struct vk_stream_end *end)
{
	PyObject *none;

	if (++end->unpumped < VK_CLIENT_BATCH)
		return 0;
	end->unpumped = 0;
	none = PyObject_CallMethod(self, "_look_around", NULL);
	Py_XDECREF(none);
	return none ? 0 : -1;
}

static PyObject *face_recv(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	struct vk_stream_end *end = end_of(self);
	struct vk_client *client = end ? end->client : NULL;
	const uint64_t engaged = client ? client->engaged : 0;
	PyObject *timeout = NULL, *message;
	int64_t begin = 0;

	if (count + (names ? PyTuple_Size(names) : 0) > 1 ||
	    (names && PyTuple_Size(names) &&
	     PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "timeout"))) {
		PyErr_SetString(PyExc_TypeError, "recv takes one argument at most, the timeout");
		return NULL;
	}
	if (count || (names && PyTuple_Size(names)))
		timeout = args[0];
	if (end && look_around(self, end))
		return NULL;
	message = end ? next_message(end, timeout, &begin) : NULL;
	if (!message && !PyErr_Occurred()) {
		if (client)
			client->engaged = PyThread_get_thread_ident();
		message = PyObject_CallMethod(self, "_recv", "OL", timeout ? timeout : Py_None,
					      (long long)begin);
	}
	if (client)
		client->engaged = engaged;
	return message;
}

static void face_dealloc(PyObject *self)
{
	Py_CLEAR(((struct face *)self)->end);
	vk_stream_end_free(self);
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function)), METH_FASTCALL | METH_KEYWORDS

static PyMethodDef face_methods[] = {
	{ "send", FAST(face_send),
	  "send($self, payload, *, type=0, correlation=0, eos=False, urgent=False, priority=0, "
	  "stamp=False, lifetime=None, timeout=None)\n--\n\n"
	  "Send one message, at most 64 MiB, as ``Stream.send`` does." },
	{ "recv", FAST(face_recv),
	  "recv($self, timeout=None)\n--\n\n"
	  "Return the next message; None after the last one; TimeoutError after ``timeout`` s." },
	{ NULL, NULL, 0, NULL },
};

static PyMemberDef face_members[] = {
	{ "_flow", T_OBJECT_EX, offsetof(struct face, end), 0, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot face_slots[] = {
	{ Py_tp_doc, "What an application calls once a message; one thread at a time." },
	{ Py_tp_methods, face_methods },
	{ Py_tp_members, face_members },
	{ Py_tp_dealloc, face_dealloc },
	{ 0, NULL },
};

static PyType_Spec face_spec = {
	.name = "valkyrie.dataplane._stream.Face",
	.basicsize = sizeof(struct face),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
	.slots = face_slots,
};

static PyMethodDef module_methods[] = {
	{ "intake", vk_stream_intake, METH_VARARGS,
	  "intake(client, ring, flows, woken, messages, bytes, /)\n--\n\n"
	  "Put plain messages from a ring into the queues of *flows*, by number, which are added\n"
	  "to *woken*; returns how many, at most a batch. Stops before what is not so simple, and\n"
	  "before a queue without a window that has so many messages or bytes. Gives nothing back\n"
	  "to the worker." },
	{ NULL, NULL, 0, NULL },
};

static int module_exec(PyObject *module)
{
	PyObject *made = PyType_FromModuleAndSpec(module, &face_spec, NULL);
	int error = made ? PyModule_AddType(module, (PyTypeObject *)made) : -1;

	Py_XDECREF(made);
	return error ? error : vk_stream_end_ready(module);
}

static PyModuleDef_Slot module_slots[] = { { Py_mod_exec, module_exec }, { 0, NULL } };

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "valkyrie.dataplane._stream",
	.m_methods = module_methods,
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__stream(void)
{
	return PyModuleDef_Init(&module);
}
