/* SPDX-License-Identifier: MIT */
/* The system calls of a running daemon: CPython, asyncio, pyroute2, cryptography and files. */
#define _GNU_SOURCE
#include "vk_confine.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <linux/prctl.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEADLY(name) { .number = SYS_##name, .is = VK_DEADLY }
#define UNKNOWN(name) { .number = SYS_##name, .is = VK_UNKNOWN }
#define SOCKET(family) VK_CALL_IF(socket, 0, UINT32_MAX, family)
#define CONTROL(request) VK_CALL_IF(ioctl, 1, UINT32_MAX, request)

/* Calls that this daemon never makes: whoever makes them is not this daemon. */
static const struct vk_rule deadly[] = {
	DEADLY(execve),
	DEADLY(execveat),
	DEADLY(ptrace),
	DEADLY(process_vm_readv),
	DEADLY(process_vm_writev),
	DEADLY(bpf),
	DEADLY(perf_event_open),
	DEADLY(userfaultfd),
	DEADLY(mount),
	DEADLY(umount2),
	DEADLY(pivot_root),
	DEADLY(chroot),
	DEADLY(open_tree),
	DEADLY(move_mount),
	DEADLY(fsopen),
	DEADLY(unshare),
	DEADLY(setns),
	DEADLY(init_module),
	DEADLY(finit_module),
	DEADLY(delete_module),
	DEADLY(kexec_load),
	DEADLY(reboot),
	DEADLY(swapon),
	DEADLY(keyctl),
	DEADLY(add_key),
	DEADLY(request_key),
	DEADLY(pidfd_getfd),
	DEADLY(io_uring_setup),
	DEADLY(memfd_create),
	DEADLY(personality),
#ifdef SYS_kexec_file_load
	DEADLY(kexec_file_load),
#endif
#ifdef SYS_fork
	DEADLY(fork),
	DEADLY(vfork),
#endif
};

static const struct vk_rule allowed[] = {
	/* waiting */
	VK_CALL(epoll_create1),
	VK_CALL(epoll_ctl),
	VK_CALL(epoll_pwait),
	VK_CALL(ppoll),
	VK_CALL(pselect6),
	VK_CALL(eventfd2),
	VK_CALL(pipe2),
	VK_CALL(futex),
	VK_CALL(clock_gettime),
	VK_CALL(clock_getres),
	VK_CALL(clock_nanosleep),
	VK_CALL(nanosleep),
	VK_CALL(gettimeofday),
	VK_CALL(restart_syscall),
	VK_CALL(sched_yield),
	/* descriptors */
	VK_CALL(read),
	VK_CALL(write),
	VK_CALL(readv),
	VK_CALL(writev),
	VK_CALL(pread64),
	VK_CALL(pwrite64),
	VK_CALL(lseek),
	VK_CALL(close),
	VK_CALL(close_range),
	VK_CALL(dup),
	VK_CALL(dup3),
	VK_CALL(fcntl),
	CONTROL(FIONBIO),
	CONTROL(FIOCLEX),
	CONTROL(FIONCLEX),
	CONTROL(FIONREAD),
	CONTROL(TCGETS),
	CONTROL(SIOCGIFINDEX),
	CONTROL(SIOCGIFNAME),
	/* sockets; which they may be, and local pairs */
	SOCKET(AF_UNIX),
	SOCKET(AF_NETLINK),
	SOCKET(AF_INET),
	SOCKET(AF_INET6),
	VK_CALL_IF(socketpair, 0, UINT32_MAX, AF_UNIX),
	VK_CALL(bind),
	VK_CALL(connect),
	VK_CALL(listen),
	VK_CALL(accept),
	VK_CALL(accept4),
	VK_CALL(getsockname),
	VK_CALL(getpeername),
	VK_CALL(getsockopt),
	VK_CALL(setsockopt),
	VK_CALL(shutdown),
	VK_CALL(sendto),
	VK_CALL(sendmsg),
	VK_CALL(sendmmsg),
	VK_CALL(recvfrom),
	VK_CALL(recvmsg),
	VK_CALL(recvmmsg),
	/* files: Landlock says which */
	VK_CALL(openat),
	VK_CALL(fstat),
	VK_CALL(newfstatat),
	VK_CALL(statx),
	VK_CALL(faccessat),
	VK_CALL(faccessat2),
	VK_CALL(readlinkat),
	VK_CALL(getdents64),
	VK_CALL(getcwd),
	VK_CALL(fsync),
	VK_CALL(fdatasync),
	VK_CALL(ftruncate),
	VK_CALL(fallocate),
	VK_CALL(flock),
	VK_CALL(renameat2),
	VK_CALL(linkat),
	VK_CALL(unlinkat),
	VK_CALL(mkdirat),
	VK_CALL(fchmod),
	VK_CALL(fchmodat),
	VK_CALL(umask),
	VK_CALL(fstatfs),
	VK_CALL(statfs),
	/* memory that no code is put into */
	VK_CALL_IF(mmap, 2, PROT_EXEC, 0),
	VK_CALL_IF(mprotect, 2, PROT_EXEC, 0),
	VK_CALL(munmap),
	VK_CALL(mremap),
	VK_CALL(madvise),
	VK_CALL(brk),
	VK_CALL(msync),
	VK_CALL(mlock),
	VK_CALL(membarrier),
	/* threads, not processes; glibc goes from clone3, whose flags lie in memory, to clone */
	VK_CALL_IF(clone, 0, CLONE_THREAD, CLONE_THREAD),
	UNKNOWN(clone3),
	VK_CALL(rseq),
	VK_CALL(set_robust_list),
	VK_CALL(set_tid_address),
	VK_CALL(sched_getaffinity),
	VK_CALL_IF(prctl, 0, UINT32_MAX, PR_SET_NAME),
	/* who and what we are */
	VK_CALL(getpid),
	VK_CALL(getppid),
	VK_CALL(gettid),
	VK_CALL(getuid),
	VK_CALL(geteuid),
	VK_CALL(getgid),
	VK_CALL(getegid),
	VK_CALL(getgroups),
	VK_CALL(uname),
	VK_CALL(sysinfo),
	VK_CALL(getrusage),
	VK_CALL(times),
	VK_CALL(getcpu),
	VK_CALL(getrandom),
	VK_CALL_IF(prlimit64, 0, UINT32_MAX, 0),
	/* signals, to ourselves (see below), and the end */
	VK_CALL(rt_sigaction),
	VK_CALL(rt_sigprocmask),
	VK_CALL(rt_sigreturn),
	VK_CALL(sigaltstack),
	VK_CALL(exit),
	VK_CALL(exit_group),
};

/* Calls that newer architectures do without. */
static const struct vk_rule old[] = {
#ifdef SYS_open
	VK_CALL(open),	   VK_CALL(stat),   VK_CALL(lstat),	VK_CALL(access),
	VK_CALL(readlink), VK_CALL(rename), VK_CALL(unlink),	VK_CALL(mkdir),
	VK_CALL(dup2),	   VK_CALL(poll),   VK_CALL(select),	VK_CALL(epoll_wait),
	VK_CALL(time),	   VK_CALL(pipe),   VK_CALL(getrlimit), VK_CALL(chmod),
#endif
#ifdef SYS_renameat
	VK_CALL(renameat),
#endif
};

int vk_confine_daemon(uint32_t how)
{
	const uint32_t me = (uint32_t)getpid();
	const struct vk_rule own[] = {
		VK_CALL_IF(kill, 0, UINT32_MAX, me),
		VK_CALL_IF(tgkill, 0, UINT32_MAX, me),
	};
	struct vk_rule rules[sizeof deadly / sizeof *deadly + sizeof allowed / sizeof *allowed +
			     sizeof old / sizeof *old + sizeof own / sizeof *own];
	const struct {
		const struct vk_rule *rules;
		size_t count;
	} parts[] = {
		{ allowed, sizeof allowed / sizeof *allowed },
		{ old, sizeof old / sizeof *old },
		{ own, sizeof own / sizeof *own },
		{ deadly, sizeof deadly / sizeof *deadly },
	};
	size_t count = 0;

	for (size_t part = 0; part < sizeof parts / sizeof *parts; part++) {
		for (size_t i = 0; i < parts[part].count; i++)
			rules[count++] = parts[part].rules[i];
	}
	return vk_confine(rules, count, VK_REFUSED, (enum vk_confine)how);
}
