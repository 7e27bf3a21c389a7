/* SPDX-License-Identifier: MIT */
#ifndef VK_STREAM_END_H
#define VK_STREAM_END_H
/* vk_stream_end.h: one end of a stream as Python calls it once a message, in the limited API:
 * _stream.End, of which Flow (flow.py) is a subclass. Only the usual case is here: a plain message
 * and room for it, the stream's next message at the head of its ring. Whatever else comes up is
 * left as it was found to the subclass, which has all rules. shm/vk_end.c says what cffi would
 * cost.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "vk_inlet.h"

/* One end of a stream. Python owns what the addresses name, and may set all that has a name. */
struct vk_stream_end {
	PyObject_HEAD struct vk_client *client; /* NULL: not begun */
	struct vk_outlet *outlet;
	struct vk_inlet *inlet;
	PyObject *memory; /* what owns them */
	PyObject *message; /* type of messages */
	PyObject *queue; /* messages that were taken out of the ring for the reader */
	PyObject *early; /* those that wait for others, by sequence */
	PyObject *held; /* batches of this ring that are held */
	PyObject *owed; /* what taking joined messages gives back, by sequence */
	unsigned long long received, received_bytes;
	unsigned long long queue_size; /* bytes of payload in the queue */
	unsigned int ring;
	unsigned int expected; /* sequence that comes next */
	int number; /* of the worker's flow */
	unsigned int generation;
	unsigned int unpumped; /* messages since Python looked at the other rings */
	char careful; /* messages have to be looked at */
	char halting; /* its ring is left alone when the queue is full */
};

enum vk_found {
	VK_FOUND, /* a message, or an exception */
	VK_FOUND_NOTHING, /* the ring is empty */
	VK_FOUND_OTHER, /* something that Python has to look at */
};

extern PyTypeObject *vk_stream_end_type;

/* vk_stream_end_ready makes the type and adds it to a module. Returns 0, or -1 and an exception. */
int vk_stream_end_ready(PyObject *module);

/* vk_stream_end_put puts a plain message into the ring: 1, 0 if that is not to be had so easily. */
int vk_stream_end_put(struct vk_stream_end *end, PyObject *payload);

/* vk_stream_end_take takes the stream's next message out of the queue, or the ring if it is next
 * there. */
enum vk_found vk_stream_end_take(struct vk_stream_end *end, PyObject **message);

/* vk_stream_end_idle lets the peer know what was taken: the reader waits. Returns 0, or -1 and an
 * exception. */
int vk_stream_end_idle(struct vk_stream_end *end);

/* vk_stream_end_free ends the memory of an object of this module. */
void vk_stream_end_free(PyObject *self);

/* vk_stream_intake is _stream.intake. */
PyObject *vk_stream_intake(PyObject *self, PyObject *args);
#endif
