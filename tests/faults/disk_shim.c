/* Makes the n-th write-like call of a process fail: loaded with LD_PRELOAD, so that it also sees SQLite's own.
 *
 * Counts write, pwrite, ftruncate, fsync, fdatasync, rename, mkdir, symlink, an open that may create, and with EIO also
 * unlink and rmdir; only on files below one directory. A lasting fault first writes half of what was wanted, as a disk
 * does that fills up, and goes on until it is disarmed; a full disk still syncs, renames and removes. With the code 0
 * nothing fails: the process is killed before the call, or, where that is lasting, after half of what it writes. With
 * the number -1 it is stopped there instead, at every call, and goes on when it is told to.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static long at, count;
static int error, lasting, undeletable;
static char under[PATH_MAX], what[PATH_MAX + 32];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Every call below `directory` counts from now on, and number `n` (from 1; 0: none; -1: each) fails with `code`. */
void disk_arm(long n, int code, int lasts, const char *directory)
{
	at = n, error = code, lasting = lasts, count = 0, undeletable = 0, what[0] = 0;
	snprintf(under, sizeof under, "%s/", directory);
}

void disk_disarm(void) { under[0] = 0; }

/* Which call failed first: "" when none did. */
const char *disk_what(void) { return what; }

/* How often something could not be removed. */
int disk_undeletable(void) { return undeletable; }

/* Here it ends, or whoever looks on has a look. */
static void ends(void) { raise(at < 0 ? SIGSTOP : SIGKILL); }

enum kind { GROWS, SYNCS, REMOVES };

/* Whether this call fails: 1, or 2 for the first of a lasting fault. */
static int fails(const char *name, enum kind kind, const char *path)
{
	int failed;
	if (!under[0] || strncmp(path, under, strlen(under)) || (kind == REMOVES && error && error != EIO))
		return 0;
	pthread_mutex_lock(&lock);
	count++;
	if (!error) {
		int here = at < 0 || (at && count == at), torn = lasting && strstr(name, "write");
		pthread_mutex_unlock(&lock);
		if (here && !torn)
			ends();
		return here && torn; /* who writes does it */
	}
	failed = at && (count == at || (lasting && count > at && (kind == GROWS || error == EIO)));
	if (failed && !what[0]) {
		snprintf(what, sizeof what, "%s %s", name, path + strlen(under));
		failed = 1 + lasting;
	}
	undeletable += failed && kind == REMOVES;
	pthread_mutex_unlock(&lock);
	errno = error;
	return failed;
}

static int fails_open(const char *name, enum kind kind, int descriptor)
{
	char link[64], path[PATH_MAX];
	ssize_t size;
	if (!under[0])
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
	size = readlink(link, path, sizeof path - 1);
	if (size < 0)
		return 0;
	path[size] = 0;
	return fails(name, kind, path);
}

#define REAL(name) \
	static __typeof__(name) *real; \
	if (!real) \
		*(void **)&real = dlsym(RTLD_NEXT, #name)

#define WRITES(name, parameters, arguments, on) \
	ssize_t name parameters \
	{ \
		int failed; \
		REAL(name); \
		failed = fails_open(#name, GROWS, descriptor); \
		if (failed && !error) { \
			size_t all = size; \
			size /= 2; \
			(void)!real arguments; \
			ends(); \
			data = (const char *)data + size; \
			on; \
			size = all - size; \
			return real arguments < 0 ? -1 : (ssize_t)all; \
		} \
		if (failed == 2 && size > 1) { \
			size /= 2; \
			return real arguments; \
		} \
		return failed ? -1 : real arguments; \
	}

WRITES(write, (int descriptor, const void *data, size_t size), (descriptor, data, size), (void)0)
WRITES(pwrite, (int descriptor, const void *data, size_t size, off_t offset), (descriptor, data, size, offset),
       offset += size)
WRITES(pwrite64, (int descriptor, const void *data, size_t size, off64_t offset), (descriptor, data, size, offset),
       offset += size)

#define CALL(name, check, parameters, arguments) \
	int name parameters \
	{ \
		REAL(name); \
		return check ? -1 : real arguments; \
	}

CALL(fsync, fails_open("fsync", SYNCS, descriptor), (int descriptor), (descriptor))
CALL(fdatasync, fails_open("fdatasync", SYNCS, descriptor), (int descriptor), (descriptor))
CALL(ftruncate, fails_open("ftruncate", SYNCS, descriptor), (int descriptor, off_t size), (descriptor, size))
CALL(ftruncate64, fails_open("ftruncate", SYNCS, descriptor), (int descriptor, off64_t size), (descriptor, size))
CALL(rename, fails("rename", SYNCS, new), (const char *old, const char *new), (old, new))
CALL(mkdir, fails("mkdir", GROWS, path), (const char *path, mode_t mode), (path, mode))
CALL(symlink, fails("symlink", GROWS, path), (const char *to, const char *path), (to, path))
CALL(unlink, fails("unlink", REMOVES, path), (const char *path), (path))
CALL(rmdir, fails("rmdir", REMOVES, path), (const char *path), (path))

#define OPENS(name) \
	int name(const char *path, int flags, ...) \
	{ \
		va_list more; \
		mode_t mode; \
		REAL(name); \
		va_start(more, flags); \
		mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
		va_end(more); \
		if ((flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) && fails("open", GROWS, path)) \
			return -1; \
		return real(path, flags, mode); \
	}

OPENS(open)
OPENS(open64)
