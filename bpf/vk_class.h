/* SPDX-License-Identifier: MIT */
#ifndef VK_CLASS_H
#define VK_CLASS_H
/* vk_class.h: what the numbers on the wire say of a frame's class. The last part of vk_wire.h,
 * which includes it.
 */
/* vk_stream_class returns the class that a stream id selects (never VK_CLASS_CONTROL). */
static inline __attribute__((always_inline)) uint32_t vk_stream_class(uint32_t stream)
{
	if (stream < VK_FIRST_SYSTEM)
		return VK_CLASS_CRITICAL;
	if (stream < VK_FIRST_JOB)
		return VK_CLASS_SYSTEM;
	if (stream < VK_FIRST_DATA)
		return VK_CLASS_JOB;
	return stream < VK_FIRST_LOGS ? VK_CLASS_DATA : VK_CLASS_LOGS;
}

/* vk_class_space returns the packet-number space of a class. */
static inline __attribute__((always_inline)) uint32_t vk_class_space(uint32_t class)
{
	if (class <= VK_CLASS_SYSTEM)
		return VK_SPACE_E;
	return class <= VK_CLASS_DATA ? VK_SPACE_B : VK_SPACE_L;
}

/* vk_priority_ok says whether a priority lies in the band of a class. */
static inline __attribute__((always_inline)) int vk_priority_ok(uint32_t class, uint32_t priority)
{
	switch (class) {
	case VK_CLASS_CRITICAL:
		return priority == VK_PRIORITY_CRITICAL;
	case VK_CLASS_SYSTEM:
		return priority >= VK_PRIORITY_SYSTEM && priority < VK_PRIORITY_CRITICAL;
	case VK_CLASS_JOB:
		return priority >= VK_PRIORITY_JOB && priority < VK_PRIORITY_SYSTEM;
	case VK_CLASS_DATA:
		return priority >= VK_PRIORITY_DATA && priority < VK_PRIORITY_JOB;
	case VK_CLASS_LOGS:
		return priority < VK_PRIORITY_DATA;
	default:
		return 1;
	}
}

/* vk_type_known says whether a type byte is assigned. */
static inline __attribute__((always_inline)) int vk_type_known(uint32_t type)
{
	return type <= VK_NEGOTIATE || (type >= VK_AUTH_CHALLENGE && type <= VK_CERT_REQUEST) ||
	       (type >= VK_JOB_REQUEST && type <= VK_JOB_RESUME) ||
	       (type >= VK_STREAM_OPEN && type <= VK_FILE_COMPLETE) ||
	       (type >= VK_METRICS_REPORT && type <= VK_ALERT_NOTIFICATION);
}
#endif
