// A CUDA driver without a GPU, for tests: what PyCUDA calls of libcuda.so.1, over shim.hpp. Real cubins are loaded; their code is looked
// up by name among the kernels that were compiled for this processor (a folder of lib*.so, each with `shim_kernels`).
//
// It is stricter than a GPU. Device memory can be touched by copies and kernels alone, every allocation ends at a page nothing may
// touch, fresh memory holds NaNs. Nothing that was enqueued happens before somebody waits for it, so that a missing wait shows. Packed
// parameters must be as long as the cubin says, and lie where it says. What a capture of a stream must not meet is refused, by the
// rules of the Driver API (cuStreamBeginCapture, cuThreadExchangeStreamCaptureMode); events in captured streams are not supported.
//
// The environment chooses: EDGE_DRIVER_KERNELS (the folder), _CAPABILITY ("8.7"), _VERSION ("12060"), _MULTIPROCESSORS ("8"),
// _MEMORY (bytes), _ORDER ("forward", "reverse"), _LOG (a file: a line a launch, those of graphs when these are launched),
// _REFUSES (the name of a function and the error that it answers, "cuLaunchKernel 719").
//
// Of its own it has edge_driver_calls(NAME), how often a function was called, and edge_driver_graphs(), how many graphs there are.
#include <cuda.h>
#include <cudaProfiler.h>
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string_view>
#include <thread>

#include "shim.hpp"

struct CUctx_st {
    int references = 0;
};

struct CUevent_st {
    bool done = true;
    std::chrono::steady_clock::time_point when;
};

namespace {

struct Work {
    CUstream stream;
    std::function<CUresult()> act;
    CUevent waits_for = nullptr;
};

// Of a graph; all of them in the order in which they were captured.
struct Node {
    std::function<CUresult()> act;
    std::string launch;  // its line of the log, if it is one
};

struct Capture {
    CUstreamCaptureMode mode;
    std::thread::id thread;
    bool valid = true;
    std::vector<Node> nodes;
};

struct Allocation {
    std::size_t size, mapped;
    unsigned char* base;
};

struct Function {
    const shim::Kernel* kernel;
    std::vector<shim::Parameter> parameters;  // by the cubin
    int shared_limit = 48 << 10;
};

}  // namespace

struct CUstream_st {
    bool blocking;  // waits for the legacy stream, which waits for it
    std::unique_ptr<Capture> capture;
};

struct CUgraph_st {
    std::shared_ptr<const std::vector<Node>> nodes;
};

struct CUgraphExec_st {
    std::shared_ptr<const std::vector<Node>> nodes;
};

struct CUfunc_st {
    Function function;
};

struct CUmod_st {
    std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
};

namespace {

constexpr std::size_t kGraphBytes = 64 << 10;  // of the device's memory, that a graph which can be launched takes

std::string setting(const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value ? value : otherwise;
}

void log_launch(const std::string& line) {
    const std::string path = setting("EDGE_DRIVER_LOG", "");
    if (!path.empty() && !line.empty()) std::ofstream(path, std::ios::app) << line << '\n';
}

struct Driver {
    std::recursive_mutex lock;
    std::map<std::uintptr_t, Allocation> device, pinned;
    std::deque<Work> enqueued;
    std::map<std::string, const shim::Kernel*> kernels;
    std::string failure;  // of a kernel; the context is lost then, as on a device
    std::size_t used = 0;
    CUctx_st context;
    std::set<CUstream> streams;
    std::set<CUgraph> graphs;
    std::set<CUgraphExec> executables;
    std::map<std::string_view, long> calls;

    int major() const { return std::atoi(setting("EDGE_DRIVER_CAPABILITY", "8.7").c_str()); }
    int minor() const {
        const std::string capability = setting("EDGE_DRIVER_CAPABILITY", "8.7");
        return std::atoi(capability.substr(capability.find('.') + 1).c_str());
    }
    std::size_t memory() const { return std::strtoull(setting("EDGE_DRIVER_MEMORY", "1073741824").c_str(), nullptr, 10); }

    // What a function answers without doing anything, if the environment says so.
    static CUresult refusal(const std::string& function) {
        const std::string refused = setting("EDGE_DRIVER_REFUSES", "");
        if (refused.compare(0, function.size() + 1, function + ' ') != 0) return CUDA_SUCCESS;
        return static_cast<CUresult>(std::atoi(refused.c_str() + function.size()));
    }

    void load_kernels() {
        if (!kernels.empty()) return;
        for (const auto& file : std::filesystem::directory_iterator(setting("EDGE_DRIVER_KERNELS", "."))) {
            if (file.path().extension() != ".so") continue;
            void* library = dlopen(file.path().c_str(), RTLD_NOW | RTLD_LOCAL);
            if (!library) continue;
            typedef const std::vector<shim::Kernel>& (*Table)();
            if (const auto table = reinterpret_cast<Table>(dlsym(library, "shim_kernels"))) {
                for (const shim::Kernel& kernel : table()) kernels[kernel.name] = &kernel;
            }
        }
    }

    void protect(int protection) {
        for (auto& [address, allocation] : device) mprotect(allocation.base, allocation.mapped, protection);
    }

    bool holds(const std::map<std::uintptr_t, Allocation>& memory, std::uintptr_t address, std::size_t size) const {
        auto at = memory.upper_bound(address);
        if (at == memory.begin()) return false;
        --at;
        return address + size <= at->first + at->second.size;
    }

    CUresult copy(void* to, const void* from, std::size_t size, bool to_device, bool from_device) {
        if (to_device && !holds(device, reinterpret_cast<std::uintptr_t>(to), size)) return CUDA_ERROR_INVALID_VALUE;
        if (from_device && !holds(device, reinterpret_cast<std::uintptr_t>(from), size)) return CUDA_ERROR_INVALID_VALUE;
        protect(PROT_READ | PROT_WRITE);
        std::memmove(to, from, size);
        protect(PROT_NONE);
        return CUDA_SUCCESS;
    }

    CUresult enqueue(CUstream stream, std::function<CUresult()> act, std::string launch = "") {
        if (const CUresult result = touch(stream)) return result;
        if (stream && stream->capture) {
            stream->capture->nodes.push_back({std::move(act), std::move(launch)});
            return CUDA_SUCCESS;
        }
        log_launch(launch);
        enqueued.push_back({stream, std::move(act)});
        return CUDA_SUCCESS;
    }

    // Whether work may be given to a stream. The legacy one, which synchronous copies use too, would wait for those that block.
    CUresult touch(CUstream stream) {
        if (stream) return !stream->capture || stream->capture->valid ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        return refuse([](const CUstream_st& other) { return other.blocking; }, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    }

    // Calls that a capture does not see, and that what it captures may depend on.
    CUresult unsafe() {
        return refuse(
            [](const CUstream_st& stream) {
                const bool mine = stream.capture->thread == std::this_thread::get_id();
                return stream.capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL || (mine && stream.capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED);
            },
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }

    // Waiting for a stream, or asking whether it is done: for all of them (null) that of the whole context.
    CUresult wait(CUstream stream) {
        return refuse([=](const CUstream_st& other) { return !stream || &other == stream; }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }

    // A synchronous copy.
    CUresult copy_now(void* to, const void* from, std::size_t size, bool to_device, bool from_device) {
        if (const CUresult result = unsafe()) return result;
        if (const CUresult result = touch(nullptr)) return result;
        if (const CUresult result = finish(nullptr, true)) return result;
        return copy(to, from, size, to_device, from_device);
    }

    // Breaks the captures that a call conflicts with, which is refused then.
    template <class Conflict>
    CUresult refuse(Conflict conflict, CUresult error) {
        CUresult result = CUDA_SUCCESS;
        for (const CUstream stream : streams) {
            if (!stream->capture || !conflict(*stream)) continue;
            stream->capture->valid = false;
            result = error;
        }
        return result;
    }

    // Does what was enqueued before `until` in one stream, or in all (null), in its order there.
    CUresult finish(CUstream stream, bool all, const CUevent until = nullptr) {
        for (std::size_t at = 0; at < enqueued.size();) {
            if (!all && enqueued[at].stream != stream) {
                ++at;
                continue;
            }
            if (enqueued[at].waits_for && !enqueued[at].waits_for->done) {
                const CUevent event = enqueued[at].waits_for;
                if (const CUresult result = finish_event(event)) return result;
                at = 0;
                continue;
            }
            const Work work = std::move(enqueued[at]);
            enqueued.erase(enqueued.begin() + static_cast<std::ptrdiff_t>(at));
            if (!failure.empty()) return CUDA_ERROR_LAUNCH_FAILED;
            if (const CUresult result = work.act ? work.act() : CUDA_SUCCESS) return result;
            if (until && until->done) return CUDA_SUCCESS;
        }
        return failure.empty() ? CUDA_SUCCESS : CUDA_ERROR_LAUNCH_FAILED;
    }

    std::map<CUevent, CUstream> recorded;

    CUresult finish_event(CUevent event) { return event->done ? CUDA_SUCCESS : finish(recorded[event], false, event); }
};

Driver& driver() {
    static Driver* one = new Driver;  // never torn down: PyCUDA frees what it holds at the very end
    return *one;
}

#define LOCKED                                                             \
    const std::lock_guard<std::recursive_mutex> guard(driver().lock); \
    ++driver().calls[__func__];                                       \
    if (const CUresult refused = driver().refusal(__func__)) return refused

#define PASSED(checked) \
    if (const CUresult refused = checked) return refused

thread_local std::vector<CUcontext> contexts;

CUresult allocate(std::size_t size, std::map<std::uintptr_t, Allocation>& memory, int protection, std::uintptr_t& address) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), aligned = (size + 15) / 16 * 16;  // a float4
    const std::size_t mapped = (aligned + page - 1) / page * page;
    void* base = mmap(nullptr, mapped + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(base, shim::kPoison, mapped);
    mprotect(static_cast<unsigned char*>(base) + mapped, page, PROT_NONE);
    mprotect(base, mapped, protection);
    address = reinterpret_cast<std::uintptr_t>(base) + mapped - aligned;
    memory[address] = {size, mapped, static_cast<unsigned char*>(base)};
    return CUDA_SUCCESS;
}

void release(std::map<std::uintptr_t, Allocation>& memory, std::map<std::uintptr_t, Allocation>::iterator at) {
    munmap(at->second.base, at->second.mapped + static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
    memory.erase(at);
}

template <class T>
const T* in(const unsigned char* image, std::uint64_t offset) {
    return reinterpret_cast<const T*>(image + offset);
}

// Kernels of a cubin and where their parameters lie: EIATTR_KPARAM_INFO of their .nv.info sections.
CUresult read_cubin(const unsigned char* image, CUmod_st& module) {
    constexpr unsigned char kParameterFormat = 4, kParameterInfo = 0x17;
    const Elf64_Ehdr* elf = in<Elf64_Ehdr>(image, 0);
    if (std::memcmp(elf->e_ident, ELFMAG, SELFMAG) != 0 || elf->e_machine != 190) return CUDA_ERROR_INVALID_IMAGE;
    const unsigned flags = elf->e_flags;
    const bool wide = elf->e_ident[EI_ABIVERSION] >= 8;  // where the architecture is: CUDA 13 moved it
    const int built_for = static_cast<int>(wide ? (flags >> 8) & 0xff : flags & 0xff);
    const int have = 10 * driver().major() + driver().minor();
    if (built_for / 10 != have / 10 || built_for > have) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    const Elf64_Shdr* sections = in<Elf64_Shdr>(image, elf->e_shoff);
    const char* names = in<char>(image, sections[elf->e_shstrndx].sh_offset);
    driver().load_kernels();
    for (int i = 0; i < elf->e_shnum; ++i) {
        const std::string name = names + sections[i].sh_name, prefix = ".nv.info.";
        if (name.compare(0, prefix.size(), prefix) != 0) continue;
        auto function = std::make_unique<CUfunc_st>();
        const std::string kernel = name.substr(prefix.size());
        const auto found = driver().kernels.find(kernel);
        function->function.kernel = found == driver().kernels.end() ? nullptr : found->second;
        std::map<unsigned, shim::Parameter> parameters;
        const unsigned char* at = image + sections[i].sh_offset;
        for (const unsigned char* end = at + sections[i].sh_size; at + 4 <= end;) {
            const unsigned size = at[2] | at[3] << 8;
            if (at[0] != kParameterFormat) {
                at += 4;
                continue;
            }
            if (at[1] == kParameterInfo) {
                unsigned words[3];
                std::memcpy(words, at + 4, sizeof words);
                parameters[words[1] & 0xffff] = {words[1] >> 16, words[2] >> 18};
            }
            at += 4 + size;
        }
        for (const auto& [ordinal, parameter] : parameters) function->function.parameters.push_back(parameter);
        module.functions[kernel] = std::move(function);
    }
    return CUDA_SUCCESS;
}

bool same(const std::vector<shim::Parameter>& a, const std::vector<shim::Parameter>& b) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (a[i].offset != b[i].offset || a[i].size != b[i].size) return false;
    }
    return true;
}

std::string line_of(const shim::Launch& launch, const char* name) {
    std::string line = name;
    for (const unsigned number : {launch.grid.x, launch.grid.y, launch.grid.z, launch.block.x, launch.block.y, launch.block.z}) {
        line += ' ' + std::to_string(number);
    }
    return line + ' ' + std::to_string(launch.shared);
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int* version) {
    *version = std::atoi(setting("EDGE_DRIVER_VERSION", "12060").c_str());
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
    switch (error) {
        case CUDA_SUCCESS: *text = "no error"; break;
        case CUDA_ERROR_INVALID_VALUE: *text = "invalid argument"; break;
        case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
        case CUDA_ERROR_INVALID_IMAGE: *text = "device kernel image is invalid"; break;
        case CUDA_ERROR_NO_BINARY_FOR_GPU: *text = "no kernel image is available for execution on the device"; break;
        case CUDA_ERROR_LAUNCH_FAILED: *text = driver().failure.empty() ? "unspecified launch failure" : driver().failure.c_str(); break;
        case CUDA_ERROR_NOT_FOUND: *text = "named symbol not found"; break;
        case CUDA_ERROR_INVALID_CONTEXT: *text = "invalid device context"; break;
        case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: *text = "operation not permitted when stream is capturing"; break;
        case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: *text = "operation failed due to a previous error during capture"; break;
        case CUDA_ERROR_STREAM_CAPTURE_IMPLICIT: *text = "operation would make the legacy stream depend on a capturing blocking stream"; break;
        case CUDA_ERROR_STREAM_CAPTURE_ISOLATION: *text = "dependency created on uncaptured work in another stream"; break;
        case CUDA_ERROR_NOT_SUPPORTED: *text = "operation not supported by the test driver"; break;
        default: *text = "error of the test driver"; break;
    }
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
    *count = 1;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int length, CUdevice) {
    std::snprintf(name, static_cast<std::size_t>(length), "test driver without a GPU");
    return CUDA_SUCCESS;
}
CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice) {
    *major = driver().major();
    *minor = driver().minor();
    return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(std::size_t* bytes, CUdevice) {
    *bytes = driver().memory();
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = driver().major(); break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = driver().minor(); break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 << 10; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = (driver().major() >= 9 ? 227 : 163) << 10; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = std::atoi(setting("EDGE_DRIVER_MULTIPROCESSORS", "8").c_str()); break;
        case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = 1; break;
        case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: *value = 1; break;
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: *value = 1; break;
        default: *value = 0; break;
    }
    return CUDA_SUCCESS;
}

CUresult cuCtxCreate(CUcontext* context, unsigned, CUdevice) {
    LOCKED;
    *context = &driver().context;
    contexts.push_back(*context);
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
    LOCKED;
    *context = &driver().context;
    ++driver().context.references;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxAttach(CUcontext* context, unsigned) {
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    *context = contexts.back();
    return CUDA_SUCCESS;
}
CUresult cuCtxDetach(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent(CUcontext context) {
    LOCKED;
    contexts.push_back(context);
    return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext* context) {
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) {
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    *device = 0;
    return CUDA_SUCCESS;
}
CUresult cuCtxGetApiVersion(CUcontext, unsigned* version) {
    *version = 3020;
    return CUDA_SUCCESS;
}
CUresult cuCtxSynchronize() {
    LOCKED;
    PASSED(driver().wait(nullptr));
    return driver().finish(nullptr, true);
}

CUresult cuMemGetInfo(std::size_t* free, std::size_t* total) {
    LOCKED;
    *total = driver().memory();
    *free = *total - driver().used;
    return CUDA_SUCCESS;
}
CUresult cuMemAlloc(CUdeviceptr* pointer, std::size_t size) {
    LOCKED;
    PASSED(driver().unsafe());
    if (contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (size == 0) return CUDA_ERROR_INVALID_VALUE;
    if (driver().used + size > driver().memory()) return CUDA_ERROR_OUT_OF_MEMORY;
    std::uintptr_t address;
    if (const CUresult result = allocate(size, driver().device, PROT_NONE, address)) return result;
    driver().used += size;
    *pointer = address;
    return CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr pointer) {
    LOCKED;
    PASSED(driver().unsafe());
    driver().finish(nullptr, true);
    const auto at = driver().device.find(pointer);
    if (at == driver().device.end()) return CUDA_ERROR_INVALID_VALUE;
    driver().used -= at->second.size;
    release(driver().device, at);
    return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void** pointer, std::size_t size, unsigned) {
    LOCKED;
    PASSED(driver().unsafe());
    std::uintptr_t address;
    if (const CUresult result = allocate(size, driver().pinned, PROT_READ | PROT_WRITE, address)) return result;
    *pointer = reinterpret_cast<void*>(address);
    return CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void* pointer) {
    LOCKED;
    PASSED(driver().unsafe());
    driver().finish(nullptr, true);
    const auto at = driver().pinned.find(reinterpret_cast<std::uintptr_t>(pointer));
    if (at == driver().pinned.end()) return CUDA_ERROR_INVALID_VALUE;
    release(driver().pinned, at);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, std::size_t size) {
    LOCKED;
    return driver().copy_now(reinterpret_cast<void*>(to), from, size, true, false);
}
CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, std::size_t size) {
    LOCKED;
    return driver().copy_now(to, reinterpret_cast<const void*>(from), size, false, true);
}
CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, std::size_t size) {
    LOCKED;
    return driver().copy_now(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), size, true, true);
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, std::size_t size, CUstream stream) {
    LOCKED;
    const bool captured = stream && stream->capture;
    if (captured || driver().holds(driver().pinned, reinterpret_cast<std::uintptr_t>(from), size)) {
        return driver().enqueue(stream, [=] { return driver().copy(reinterpret_cast<void*>(to), from, size, true, false); });
    }
    const unsigned char* bytes = static_cast<const unsigned char*>(from);  // pageable memory may be changed as soon as the call returns
    return driver().enqueue(stream, [to, size, kept = std::vector<unsigned char>(bytes, bytes + size)] {
        return driver().copy(reinterpret_cast<void*>(to), kept.data(), size, true, false);
    });
}
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, std::size_t size, CUstream stream) {
    LOCKED;
    const bool captured = stream && stream->capture;
    PASSED(driver().enqueue(stream, [=] { return driver().copy(to, reinterpret_cast<const void*>(from), size, false, true); }));
    if (captured || driver().holds(driver().pinned, reinterpret_cast<std::uintptr_t>(to), size)) return CUDA_SUCCESS;
    return driver().finish(stream, false);  // copies to pageable memory are done when the call returns
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, std::size_t size, CUstream stream) {
    LOCKED;
    return driver().enqueue(
        stream, [=] { return driver().copy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), size, true, true); });
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t size, CUstream stream) {
    LOCKED;
    return driver().enqueue(stream, [to, size, bytes = std::vector<unsigned char>(size, value)] {
        return driver().copy(reinterpret_cast<void*>(to), bytes.data(), size, true, false);
    });
}

CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
    LOCKED;
    *stream = new CUstream_st{(flags & CU_STREAM_NON_BLOCKING) == 0, nullptr};
    driver().streams.insert(*stream);
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) {
    LOCKED;
    PASSED(driver().wait(stream));
    driver().finish(stream, false);
    driver().streams.erase(stream);
    delete stream;
    return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
    LOCKED;
    PASSED(stream ? driver().wait(stream) : driver().touch(stream));
    return driver().finish(stream, false);
}
CUresult cuStreamQuery(CUstream stream) {
    LOCKED;
    PASSED(stream ? driver().wait(stream) : driver().touch(stream));
    for (const Work& work : driver().enqueued) {
        if (work.stream == stream) return CUDA_ERROR_NOT_READY;
    }
    return CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    LOCKED;
    PASSED(driver().touch(stream));
    if (stream && stream->capture) {  // no event is of a capture here
        stream->capture->valid = false;
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    driver().enqueued.push_back({stream, nullptr, event});
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    LOCKED;
    if (!stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capture = std::make_unique<Capture>(Capture{mode, std::this_thread::get_id(), true, {}});
    return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    LOCKED;
    *graph = nullptr;
    if (!stream || !stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    if (stream->capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && stream->capture->thread != std::this_thread::get_id()) {
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    }
    const std::unique_ptr<Capture> capture = std::move(stream->capture);
    if (!capture->valid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = new CUgraph_st{std::make_shared<const std::vector<Node>>(std::move(capture->nodes))};
    driver().graphs.insert(*graph);
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long flags) {
    LOCKED;
    if (flags || !driver().graphs.count(graph)) return CUDA_ERROR_INVALID_VALUE;
    if (driver().used + kGraphBytes > driver().memory()) return CUDA_ERROR_OUT_OF_MEMORY;
    driver().used += kGraphBytes;
    *executable = new CUgraphExec_st{graph->nodes};
    driver().executables.insert(*executable);
    return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    LOCKED;
    if (!driver().executables.count(executable)) return CUDA_ERROR_INVALID_VALUE;
    PASSED(driver().touch(stream));
    if (stream && stream->capture) {
        for (const Node& node : *executable->nodes) stream->capture->nodes.push_back(node);
        return CUDA_SUCCESS;
    }
    for (const Node& node : *executable->nodes) log_launch(node.launch);
    return driver().enqueue(stream, [nodes = executable->nodes] {
        for (const Node& node : *nodes) PASSED(node.act());
        return CUDA_SUCCESS;
    });
}
CUresult cuGraphDestroy(CUgraph graph) {
    LOCKED;
    if (!driver().graphs.erase(graph)) return CUDA_ERROR_INVALID_VALUE;
    delete graph;
    return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec executable) {  // what has been launched of it runs to its end
    LOCKED;
    if (!driver().executables.erase(executable)) return CUDA_ERROR_INVALID_VALUE;
    driver().used -= kGraphBytes;
    delete executable;
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned) {
    *event = new CUevent_st;
    return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) {
    LOCKED;
    driver().finish_event(event);
    driver().recorded.erase(event);
    delete event;
    return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
    LOCKED;
    PASSED(driver().touch(stream));
    if (stream && stream->capture) {
        stream->capture->valid = false;
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    event->done = false;
    driver().recorded[event] = stream;
    return driver().enqueue(stream, [event] {
        event->done = true;
        event->when = std::chrono::steady_clock::now();
        return CUDA_SUCCESS;
    });
}
CUresult cuEventQuery(CUevent event) {
    LOCKED;
    PASSED(driver().unsafe());
    return event->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
CUresult cuEventSynchronize(CUevent event) {
    LOCKED;
    return driver().finish_event(event);
}
CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    if (!start->done || !end->done) return CUDA_ERROR_NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(end->when - start->when).count();
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    LOCKED;
    PASSED(driver().unsafe());
    auto loaded = std::make_unique<CUmod_st>();
    if (const CUresult result = read_cubin(static_cast<const unsigned char*>(image), *loaded)) return result;
    *module = loaded.release();
    return CUDA_SUCCESS;
}
CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    return cuModuleLoadData(module, image);
}
CUresult cuModuleUnload(CUmodule module) {
    LOCKED;
    PASSED(driver().unsafe());
    driver().finish(nullptr, true);
    delete module;
    return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    LOCKED;
    const auto at = module->functions.find(name);
    if (at == module->functions.end() || !at->second->function.kernel) return CUDA_ERROR_NOT_FOUND;
    if (!same(at->second->function.parameters, at->second->function.kernel->parameters)) return CUDA_ERROR_INVALID_IMAGE;
    *function = at->second.get();
    return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    LOCKED;
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_NOT_SUPPORTED;
    int most;
    cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0);
    if (value > most) return CUDA_ERROR_INVALID_VALUE;
    function->function.shared_limit = value;
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute, CUfunction) {
    *value = 0;
    return CUDA_SUCCESS;
}
CUresult cuFuncSetBlockShape(CUfunction, int x, int y, int z) {  // PyCUDA still says it; cuLaunchKernel says it again
    return x > 0 && y > 0 && z > 0 && x * y * z <= 1024 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                        unsigned block_z, unsigned shared, CUstream stream, void** parameters, void** extra) {
    LOCKED;
    if (parameters || !extra) return CUDA_ERROR_NOT_SUPPORTED;  // PyCUDA packs
    const unsigned char* packed = nullptr;
    std::size_t size = 0;
    for (; *extra != CU_LAUNCH_PARAM_END; extra += 2) {
        if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER) packed = static_cast<const unsigned char*>(extra[1]);
        if (extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *static_cast<std::size_t*>(extra[1]);
    }
    const Function& called = function->function;
    const std::size_t expected = called.parameters.empty() ? 0 : called.parameters.back().offset + called.parameters.back().size;
    const shim::Launch launch{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, nullptr,
                              setting("EDGE_DRIVER_ORDER", "forward") == "reverse"};
    if (size != expected || launch.block.all() == 0 || launch.block.all() > 1024 || launch.grid.all() == 0) return CUDA_ERROR_INVALID_VALUE;
    if (grid_y > 65535 || grid_z > 65535 || static_cast<int>(shared) > called.shared_limit) return CUDA_ERROR_INVALID_VALUE;
    const auto act = [launch, kernel = called.kernel, kept = std::vector<unsigned char>(packed, packed + size)] {
        shim::Launch whole = launch;
        whole.parameters = kept.data();
        driver().protect(PROT_READ | PROT_WRITE);
        try {
            kernel->launch(whole);
        } catch (const std::exception& error) {
            driver().failure = std::string(kernel->name) + ": " + error.what();
        }
        driver().protect(PROT_NONE);
        return driver().failure.empty() ? CUDA_SUCCESS : CUDA_ERROR_LAUNCH_FAILED;
    };
    return driver().enqueue(stream, act, line_of(launch, called.kernel->name));
}

// Of the test driver alone.

// By the name that the library has for a function, "cuMemAlloc_v2".
long edge_driver_calls(const char* function) {
    const std::lock_guard<std::recursive_mutex> guard(driver().lock);
    const auto at = driver().calls.find(function);
    return at == driver().calls.end() ? 0 : at->second;
}
long edge_driver_graphs() {
    const std::lock_guard<std::recursive_mutex> guard(driver().lock);
    return static_cast<long>(driver().graphs.size() + driver().executables.size());
}

}  // extern "C"
