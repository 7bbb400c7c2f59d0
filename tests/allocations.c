// Counts allocations of a process that preloads it; for tests/test_allocations.py.
#include <stdatomic.h>
#include <stddef.h>
#include <errno.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);

static atomic_long count;

long allocations(void) { return atomic_load(&count); }

void *malloc(size_t size) { return atomic_fetch_add(&count, 1), __libc_malloc(size); }
void *calloc(size_t number, size_t size) { return atomic_fetch_add(&count, 1), __libc_calloc(number, size); }
void *realloc(void *memory, size_t size) { return atomic_fetch_add(&count, 1), __libc_realloc(memory, size); }
void *memalign(size_t alignment, size_t size) { return atomic_fetch_add(&count, 1), __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **memory, size_t alignment, size_t size) { return (*memory = memalign(alignment, size)) ? 0 : ENOMEM; }
