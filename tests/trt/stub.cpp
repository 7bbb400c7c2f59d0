// The functions that TensorRT's Python bindings link, in the place of its libraries: the bindings then load, with every class, method and
// enumeration, and nothing can be compiled or run. Only plugins can be registered and found: IPluginRegistry is there as far as that goes.
#include <cstdint>
#include <string>
#include <vector>

namespace {

// Virtual functions are called by their place, since NVIDIA's header files are on no package index. Places of IPluginRegistry and of
// IPluginCreatorV3One are those of NvInferRuntimeCommon.h and NvInferRuntimePlugin.h; version 11 has dropped what 10 deprecated.
using Function = void (*)();
struct Object {
    Function* functions;
};
#if TENSORRT_MAJOR == 10
constexpr int kRegister = 12;
#else
constexpr int kRegister = 8;
#endif
constexpr int kAll = kRegister + 1, kGet = kRegister + 2, kDeregister = kRegister + 3, kFunctions = kRegister + 8;
constexpr int kName = 6, kVersion = 7;

// Of a creator: what its Python class answers.
std::string ask(Object* creator, int place) {
    return reinterpret_cast<const char* (*)(Object*)>(creator->functions[place])(creator);
}

struct Registered {
    Object* creator;
    std::string key;
};
std::vector<Registered> registered;
std::vector<Object*> creators;

std::string key_of(const std::string& name, const std::string& version, const char* space) { return std::string(space) + "::" + name + "/" + version; }

bool do_register(Object*, Object* creator, const char* space) {
    const std::string key = key_of(ask(creator, kName), ask(creator, kVersion), space);
    for (const auto& one : registered)
        if (one.key == key) return false;
    registered.push_back({creator, key});
    return true;
}

Object* const* do_all(const Object*, std::int32_t* count) {
    creators.clear();
    for (const auto& one : registered) creators.push_back(one.creator);
    *count = static_cast<std::int32_t>(creators.size());
    return creators.data();
}

Object* do_get(Object*, const char* name, const char* version, const char* space) {
    for (const auto& one : registered)
        if (one.key == key_of(name, version, space)) return one.creator;
    return nullptr;
}

bool do_deregister(Object*, const Object* creator) {
    for (auto one = registered.begin(); one != registered.end(); ++one) {
        if (one->creator != creator) continue;
        registered.erase(one);
        return true;
    }
    return false;
}

void not_there() { __builtin_trap(); }

void* registry() {
    static Function functions[kFunctions];
    static Object object{functions};
    for (auto& function : functions) function = not_there;
    functions[kRegister] = reinterpret_cast<Function>(do_register);
    functions[kAll] = reinterpret_cast<Function>(do_all);
    functions[kGet] = reinterpret_cast<Function>(do_get);
    functions[kDeregister] = reinterpret_cast<Function>(do_deregister);
    return &object;
}

}  // namespace

extern "C" {
void* createInferBuilder_INTERNAL(void*, int) { return nullptr; }
void* createInferRuntime_INTERNAL(void*, int) { return nullptr; }
void* createInferRefitter_INTERNAL(void*, void*, int) { return nullptr; }
void* createNvOnnxParser_INTERNAL(void*, void*, int) { return nullptr; }
void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int) { return nullptr; }
void* getBuilderPluginRegistry(int) { return registry(); }
void* getPluginRegistry() { return registry(); }
int getNvOnnxParserVersion() { return 0; }
bool initLibNvInferPlugins(void*, const char*) { return true; }
}
