/* SPDX-License-Identifier: MIT */
/* vk_end.c: what Python calls once a message, as a type of its own: valkyrie.shm._end.End, of which
 * a channel's end (ring.py) is a subclass.
 *
 * cffi binds everything else. A call through it costs three to four times what sending a message
 * does: it converts each argument by its type, and gives up the interpreter's lock and takes it
 * again; and it cannot return a bytes object. Here the lock is held, but while waiting.
 *
 * An End works on a struct vk_pipe that Python owns (by cffi) and names by its address. Errors are
 * raised by the subclass: _fail(-errno).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#include "vk_pipe.h"

enum { COPY_UNLOCKED = 1 << 18 }; /* bytes from which others may run while a message is copied */

struct vk_end {
	PyObject_HEAD struct vk_pipe *pipe; /* NULL: closed */
};

/* Raise what the subclass calls the error. */
static PyObject *fail(struct vk_end *end, int64_t error)
{
	PyObject *none = PyObject_CallMethod((PyObject *)end, "_fail", "L", (long long)error);

	if (none) {
		Py_DECREF(none);
		PyErr_SetString(PyExc_SystemError, "_fail returned");
	}
	return NULL;
}

/* Whether the end is open; raises if it is not. */
static int is_open(struct vk_end *end)
{
	if (!end->pipe)
		fail(end, -EBADF);
	return end->pipe != NULL;
}

/* Seconds, or None for ever, as nanoseconds; -1 is for ever. Returns 0, or -1 with an exception. */
static int to_ns(PyObject *seconds, int64_t *ns)
{
	double value;

	*ns = -1;
	if (seconds == Py_None)
		return 0;
	value = PyFloat_AsDouble(seconds);
	if (value == -1.0 && PyErr_Occurred())
		return -1;
	if (!(value > 0))
		*ns = 0;
	else if (value < 9e9) /* 285 years */
		*ns = (int64_t)(value * 1e9);
	return 0;
}

/* Put the arguments where they belong: names is what may be given, of which the first `needed` have
 * to be. found has one place for each. Returns 0, or -1 with an exception. */
static int arguments(const char *const *names, Py_ssize_t needed, PyObject *const *args,
		     Py_ssize_t count, PyObject *keywords, PyObject **found)
{
	Py_ssize_t named = keywords ? PyTuple_Size(keywords) : 0, n, all = 0;

	while (names[all])
		all++;
	for (n = 0; n < count && n < all; n++)
		found[n] = args[n];
	if (count > all) {
		PyErr_Format(PyExc_TypeError, "at most %zd arguments, not %zd", all, count);
		return -1;
	}
	for (Py_ssize_t i = 0; i < named; i++) {
		PyObject *name = PyTuple_GetItem(keywords, i);

		for (n = 0; n < all && PyUnicode_CompareWithASCIIString(name, names[n]); n++)
			;
		if (n == all || n < count) {
			PyErr_Format(PyExc_TypeError, "%s argument '%U'",
				     n == all ? "no such" : "two values for", name);
			return -1;
		}
		found[n] = args[count + i];
	}
	for (n = 0; n < needed; n++)
		if (!found[n]) {
			PyErr_Format(PyExc_TypeError, "missing argument '%s'", names[n]);
			return -1;
		}
	return 0;
}

/* Have who sleeps in an event loop look again: a wait here has taken back what it asked for.
 * Returns 0, or -1 with an exception. */
static int settle(struct vk_end *end)
{
	PyObject *none;

	if (!end->pipe || !end->pipe->watched)
		return 0;
	none = PyObject_CallMethod((PyObject *)end, "_settle", NULL);
	Py_XDECREF(none);
	return none ? 0 : -1;
}

/* Wait like vk_pipe_wait, while other threads run: 1, 0, or -1 with an exception. */
static int wait_for(struct vk_end *end, uint32_t room, int64_t timeout_ns)
{
	int64_t begin = timeout_ns > 0 ? vk_spin_clock() : 0, left = timeout_ns;
	int result;

	for (;;) {
		Py_BEGIN_ALLOW_THREADS;
		result = vk_pipe_wait(end->pipe, room, left);
		Py_END_ALLOW_THREADS;
		if (settle(end))
			return -1;
		if (result != -EINTR)
			break;
		if (PyErr_CheckSignals() || !is_open(end)) /* a handler may close it */
			return -1;
		if (timeout_ns > 0) {
			left = timeout_ns - (vk_spin_clock() - begin);
			left = left > 0 ? left : 0;
		}
	}
	if (result < 0)
		fail(end, result);
	return result < 0 ? -1 : result;
}

static PyObject *end_wait(PyObject *self, PyObject *const *args, Py_ssize_t count,
			  PyObject *keywords)
{
	static const char *const names[] = { "timeout_s", "room", NULL };
	struct vk_end *end = (struct vk_end *)self;
	PyObject *found[2] = { Py_None, NULL };
	unsigned long room = 0;
	int64_t timeout_ns;
	int result;

	if (arguments(names, 0, args, count, keywords, found) || to_ns(found[0], &timeout_ns))
		return NULL;
	if (found[1]) {
		room = PyLong_AsUnsignedLong(found[1]);
		if (room == (unsigned long)-1 && PyErr_Occurred())
			return NULL;
	}
	if (!is_open(end))
		return NULL;
	result = wait_for(end, room < UINT32_MAX ? (uint32_t)room : UINT32_MAX, timeout_ns);
	return result < 0 ? NULL : PyBool_FromLong(result);
}

/* A message's bytes. The view is to be released when it has an object. */
static int read_message(PyObject *message, Py_buffer *view)
{
	Py_ssize_t size;
	char *data;

	view->obj = NULL;
	if (!PyBytes_CheckExact(message))
		return PyObject_GetBuffer(message, view, PyBUF_SIMPLE);
	if (PyBytes_AsStringAndSize(message, &data, &size))
		return -1;
	view->buf = data;
	view->len = size;
	return 0;
}

static int64_t send_one(struct vk_pipe *pipe, const Py_buffer *view)
{
	int64_t went;

	if (view->len > UINT32_MAX)
		return -EMSGSIZE;
	if (view->len < COPY_UNLOCKED)
		return vk_pipe_send(pipe, view->buf, (uint32_t)view->len);
	Py_BEGIN_ALLOW_THREADS;
	went = vk_pipe_send(pipe, view->buf, (uint32_t)view->len);
	Py_END_ALLOW_THREADS;
	return went;
}

static PyObject *end_send(PyObject *self, PyObject *const *args, Py_ssize_t count,
			  PyObject *keywords)
{
	static const char *const names[] = { "message", "timeout_s", NULL };
	struct vk_end *end = (struct vk_end *)self;
	PyObject *found[2] = { NULL, NULL };
	int64_t timeout_ns = 0, went = 0;
	Py_buffer view;
	int waited = 1;

	if (arguments(names, 1, args, count, keywords, found) ||
	    (found[1] && to_ns(found[1], &timeout_ns)) || read_message(found[0], &view))
		return NULL;
	while (waited > 0 && is_open(end)) {
		went = send_one(end->pipe, &view);
		if (went || !timeout_ns)
			break;
		waited = wait_for(end, view.len ? (uint32_t)view.len : 1, timeout_ns);
	}
	if (view.obj)
		PyBuffer_Release(&view);
	if (went < 0)
		return fail(end, went);
	return PyErr_Occurred() ? NULL : PyBool_FromLong(went > 0);
}

/* Put all messages of a list, as far as there is room; how many, or an error if none went. */
static int64_t put_all(struct vk_end *end, PyObject *list, Py_ssize_t count)
{
	int64_t went = 1;
	Py_ssize_t n;

	for (n = 0; n < count && went > 0; n++) {
		PyObject *message = PyList_GetItem(list, n);
		Py_buffer view;

		if (!message || read_message(message, &view))
			return -EINVAL;
		went = view.len > UINT32_MAX ? -EMSGSIZE :
					       vk_pipe_put(end->pipe, view.buf, (uint32_t)view.len);
		if (view.obj)
			PyBuffer_Release(&view);
	}
	n -= went <= 0;
	return n || went > 0 ? n : went;
}

static PyObject *end_send_many(PyObject *self, PyObject *messages)
{
	struct vk_end *end = (struct vk_end *)self;
	PyObject *list = PyList_CheckExact(messages) ? Py_NewRef(messages) :
						       PySequence_List(messages);
	uint64_t tail;
	int64_t went;

	if (!list || !is_open(end)) {
		Py_XDECREF(list);
		return NULL;
	}
	tail = end->pipe->tx.tail;
	went = put_all(end, list, PyList_Size(list));
	Py_DECREF(list);
	if (PyErr_Occurred()) {
		end->pipe->tx.tail = tail; /* all that can go or nothing */
		return NULL;
	}
	if (went > 0)
		vk_pipe_publish(end->pipe);
	return went < 0 ? fail(end, went) : PyLong_FromLongLong(went);
}

/* The next message, not released yet; NULL with *size <= 0, or with an exception and *size > 0. */
static PyObject *next_message(struct vk_pipe *pipe, int64_t *size)
{
	const uint64_t head = pipe->rx.head;
	const uint8_t *body;
	PyObject *message;

	*size = vk_pipe_recv(pipe, &body);
	if (*size < 0)
		return NULL;
	message = PyBytes_FromStringAndSize((const char *)body, (Py_ssize_t)*size);
	if (!message) {
		pipe->rx.head = head;
		*size = 1;
	}
	return message;
}

static PyObject *end_recv(PyObject *self, PyObject *const *args, Py_ssize_t count,
			  PyObject *keywords)
{
	static const char *const names[] = { "timeout_s", NULL };
	struct vk_end *end = (struct vk_end *)self;
	PyObject *timeout = NULL, *message;
	int64_t timeout_ns = 0, size;
	int waited = 1;

	if (arguments(names, 0, args, count, keywords, &timeout))
		return NULL;
	while (waited > 0) {
		if (!is_open(end))
			return NULL;
		message = next_message(end->pipe, &size);
		if (message) {
			vk_pipe_release(end->pipe);
			return message;
		}
		if (size != -EAGAIN)
			return size > 0 ? NULL : fail(end, size);
		if (!timeout)
			break;
		if (to_ns(timeout, &timeout_ns)) /* read only now: mostly it is not needed */
			return NULL;
		if (!timeout_ns)
			break;
		waited = wait_for(end, 0, timeout_ns);
	}
	return waited < 0 ? NULL : Py_NewRef(Py_None);
}

/* Fill a list with up to `most` messages; 0, -EAGAIN when none came, an error, or 1 and an
 * exception: then all are still in the ring. */
static int64_t fill(struct vk_pipe *pipe, PyObject *list, Py_ssize_t most)
{
	const uint64_t head = pipe->rx.head;
	int64_t size = -EAGAIN;
	PyObject *message;
	Py_ssize_t n;
	int failed;

	for (n = 0; n < most; n++) {
		message = next_message(pipe, &size);
		if (!message)
			break;
		failed = PyList_Append(list, message);
		Py_DECREF(message);
		if (failed)
			break;
	}
	if (PyErr_Occurred()) {
		pipe->rx.head = head;
		return 1;
	}
	if (n)
		vk_pipe_release(pipe);
	return n || !most ? 0 : size;
}

static PyObject *end_recv_list(PyObject *self, PyObject *const *args, Py_ssize_t count,
			       PyObject *keywords)
{
	static const char *const names[] = { "most", "timeout_s", NULL };
	struct vk_end *end = (struct vk_end *)self;
	PyObject *found[2] = { NULL, NULL }, *list;
	int64_t timeout_ns = 0, result = 0;
	Py_ssize_t most = 4096;
	int waited = 1;

	if (arguments(names, 0, args, count, keywords, found) ||
	    (found[1] && to_ns(found[1], &timeout_ns)))
		return NULL;
	if (found[0]) {
		most = PyLong_AsSsize_t(found[0]);
		if (most == -1 && PyErr_Occurred())
			return NULL;
	}
	list = PyList_New(0);
	while (list && waited > 0 && is_open(end)) {
		result = fill(end->pipe, list, most);
		if (result != -EAGAIN || !timeout_ns)
			break;
		waited = wait_for(end, 0, timeout_ns);
	}
	if (!PyErr_Occurred() && result < 0 && result != -EAGAIN)
		fail(end, result);
	if (PyErr_Occurred())
		Py_CLEAR(list);
	return list;
}

static PyObject *end_begin(PyObject *self, PyObject *address)
{
	void *pipe = PyLong_AsVoidPtr(address);

	if (PyErr_Occurred())
		return NULL;
	((struct vk_end *)self)->pipe = pipe;
	return Py_NewRef(Py_None);
}

static void end_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	release(self);
	Py_DECREF(type);
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function)), METH_FASTCALL | METH_KEYWORDS

static PyMethodDef end_methods[] = {
	{ "send", FAST(end_send),
	  "send($self, message, timeout_s=0)\n--\n\n"
	  "Send one message; False when there was no room within the time (None: for ever).\n\n"
	  "Raises RingClosedError when the other end is gone, RingError when it broke the rules "
	  "or\n"
	  "the message can never fit." },
	{ "send_many", end_send_many, METH_O,
	  "send_many($self, messages, /)\n--\n\n"
	  "Send messages in order, waking the receiver once; returns how many there was room "
	  "for." },
	{ "recv", FAST(end_recv),
	  "recv($self, timeout_s=0)\n--\n\n"
	  "Return the next message; None if none came within the time (None: wait for ever).\n\n"
	  "Raises RingClosedError when the other end is gone and everything was received." },
	{ "recv_list", FAST(end_recv_list),
	  "recv_list($self, most=4096, timeout_s=0)\n--\n\n"
	  "Return the messages that are there, waiting for the first: [] if none came in time." },
	{ "wait", FAST(end_wait),
	  "wait($self, timeout_s=None, room=0)\n--\n\n"
	  "Block until a message is there, or *room* bytes can be sent; False on time-out.\n\n"
	  "The other party's end counts as a message: the next call says what happened." },
	{ "_begin", end_begin, METH_O, "Work on the struct vk_pipe at an address; 0: on none." },
	{ NULL, NULL, 0, NULL },
};

/* A copy of each piece, or NULL and an exception. The offset of piece n, a uint64_t, stands at
 * places[n * stride], its size, a uint32_t, size_at bytes behind that. */
static PyObject *pieces(const Py_buffer *data, const Py_buffer *places, Py_ssize_t stride,
			Py_ssize_t size_at)
{
	const Py_ssize_t count = places->len / stride;
	PyObject *list = PyList_New(count);

	for (Py_ssize_t n = 0; list && n < count; n++) {
		const char *place = (const char *)places->buf + n * stride;
		PyObject *piece = NULL;
		const uint64_t all = (uint64_t)data->len;
		uint64_t offset;
		uint32_t size;

		memcpy(&offset, place, sizeof offset);
		memcpy(&size, place + size_at, sizeof size);
		if (offset <= all && size <= all - offset)
			piece = PyBytes_FromStringAndSize((const char *)data->buf + offset,
							  (Py_ssize_t)size);
		else
			PyErr_SetString(PyExc_ValueError, "a piece lies outside of the data");
		if (!piece)
			Py_CLEAR(list);
		else
			PyList_SetItem(list, n, piece);
	}
	return list;
}

static PyObject *module_cut(PyObject *self, PyObject *args)
{
	Py_buffer data, places;
	Py_ssize_t stride, size_at;
	PyObject *list = NULL;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*y*nn:cut", &data, &places, &stride, &size_at))
		return NULL;
	if (stride < (Py_ssize_t)sizeof(uint64_t) || size_at < 0 ||
	    size_at > stride - (Py_ssize_t)sizeof(uint32_t))
		PyErr_SetString(PyExc_ValueError, "no place for a size within the stride");
	else
		list = pieces(&data, &places, stride, size_at);
	PyBuffer_Release(&places);
	PyBuffer_Release(&data);
	return list;
}

static PyMethodDef module_methods[] = {
	{ "cut", module_cut, METH_VARARGS,
	  "cut(data, places, stride, size_at, /)\n--\n\n"
	  "Return copies of pieces of *data*. Every *stride* bytes *places* has the offset of one\n"
	  "(uint64), and *size_at* bytes behind that its size (uint32)." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot end_slots[] = {
	{ Py_tp_doc, "One end of a channel; one thread at a time." },
	{ Py_tp_methods, end_methods },
	{ Py_tp_dealloc, end_dealloc },
	{ 0, NULL },
};

static PyType_Spec end_spec = {
	.name = "valkyrie.shm._end.End",
	.basicsize = sizeof(struct vk_end),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
	.slots = end_slots,
};

static int module_exec(PyObject *module)
{
	PyObject *type = PyType_FromModuleAndSpec(module, &end_spec, NULL);
	int error = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;

	Py_XDECREF(type);
	return error;
}

static PyModuleDef_Slot module_slots[] = { { Py_mod_exec, module_exec }, { 0, NULL } };

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "valkyrie.shm._end",
	.m_methods = module_methods,
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__end(void)
{
	return PyModuleDef_Init(&module);
}
