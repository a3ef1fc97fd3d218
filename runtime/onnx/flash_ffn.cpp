// Operators for ONNX Runtime whose weights this runtime keeps or reads from a bundle, within a budget:
//   ai.edgekit::FlashFFN     a feed-forward block; attribute `block`
//   ai.edgekit::FlashLinear  a projection of attention, or the head; attributes `matrix` and `rows`
// Everything else of the model is ONNX Runtime's.
//
// Session configuration entries (or environment variables) say which bundle and how much memory:
//   ai.edgekit.bundle   EDGEKIT_BUNDLE    folder of the bundle; by default the one whose artifact this library is in
//   ai.edgekit.ram      EDGEKIT_RAM       memory for these operators, as in 400M; left out: no limit
//   ai.edgekit.compute  EDGEKIT_COMPUTE   EDGEKIT_COMPUTE_* as a number, for graphs without FlashLinear
//   ai.edgekit.threads  EDGEKIT_THREADS   compute threads
//   ai.edgekit.select   EDGEKIT_SELECT    EDGEKIT_SELECT_* as a number
//   ai.edgekit.activations  EDGEKIT_ACTIVATIONS  EDGEKIT_ACTIVATIONS_* as a number
//   ai.edgekit.id                         a name for edgekit_onnx_stats
#include <dlfcn.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "edgekit/edgekit.h"
#include "ort_abi.h"
#include "settings.h"

namespace {

// A bundle opened for one ONNX Runtime session; its operators share it.
struct Engine {
  edgekit_model* model = nullptr;
  edgekit_session* session = nullptr;
  uint32_t hidden = 0, max_batch = 1;

  ~Engine() {
    edgekit_session_destroy(session);
    edgekit_model_close(model);
  }
};

// The operator as one session registered it. Lives as long as the process: ONNX Runtime keeps the pointer.
struct Registered {
  struct Op {
    OrtCustomOp op{};  // first, so that a pointer to it is one to this
    Registered* owner = nullptr;
  } ffn, linear;
  std::string bundle, ram, threads, select, activations, compute, id;
  std::mutex mutex;
  std::weak_ptr<Engine> engine;
};

// Those that have an id, so that their counters can be asked for.
std::mutex named_mutex;
std::vector<Registered*> named;

struct Kernel {
  const OrtApi* api;
  std::shared_ptr<Engine> engine;
  bool linear;
  uint32_t index;  // block or matrix
  int64_t rows;    // of the output
};

// Reads a registration's settings into options; the message of a setting that cannot be read, else empty.
std::string read_settings(const Registered& r, edgekit_options& options) {
  if (!r.ram.empty()) {
    const auto size = parse_size(r.ram);
    if (!size) {
      return "ai.edgekit.ram (EDGEKIT_RAM): '" + r.ram +
             "' is not a size of at least one byte; write bytes, or a number with K, M or G, as in 400M, or leave it "
             "out for no limit";
    }
    options.budget_bytes = *size;
  }
  const struct {
    const char* name;
    const std::string& text;
    uint32_t& value;
  } counts[] = {{"ai.edgekit.threads (EDGEKIT_THREADS)", r.threads, options.threads},
                {"ai.edgekit.select (EDGEKIT_SELECT)", r.select, options.select},
                {"ai.edgekit.activations (EDGEKIT_ACTIVATIONS)", r.activations, options.activations},
                {"ai.edgekit.compute (EDGEKIT_COMPUTE)", r.compute, options.compute}};
  for (const auto& count : counts) {
    if (count.text.empty()) continue;
    const auto number = parse_count(count.text, UINT32_MAX);
    if (!number) return std::string(count.name) + ": '" + count.text + "' is not a number from 0 to 4294967295";
    count.value = static_cast<uint32_t>(*number);
  }
  return "";
}

// The engine of a registration, opened by the first operator that asks; null and a message on failure.
std::shared_ptr<Engine> engine_of(Registered& r, std::string& message) {
  std::lock_guard<std::mutex> hold(r.mutex);
  if (auto open = r.engine.lock()) return open;
  if (r.bundle.empty()) {
    message = "FlashFFN: name the bundle in the session's entry ai.edgekit.bundle or in EDGEKIT_BUNDLE";
    return nullptr;
  }
  auto made = std::make_shared<Engine>();
  edgekit_options options{};
  options.struct_size = sizeof(options);
  options.compute = EDGEKIT_COMPUTE_LINEAR;
  message = read_settings(r, options);
  if (!message.empty()) return nullptr;
  edgekit_error error{};
  if (edgekit_model_open(r.bundle.c_str(), &options, &made->model, &error) != EDGEKIT_OK ||
      edgekit_session_create(made->model, &made->session, &error) != EDGEKIT_OK) {
    message = std::string("FlashFFN: ") + error.message;
    return nullptr;
  }
  edgekit_info info{};
  edgekit_plan plan{};
  info.struct_size = sizeof(info);
  plan.struct_size = sizeof(plan);
  edgekit_model_info(made->model, &info, nullptr);
  edgekit_model_plan(made->model, &plan, nullptr);
  made->hidden = info.hidden_size;
  made->max_batch = plan.max_batch;
  r.engine = made;
  return made;
}

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** out) {
  *out = nullptr;
  const auto& self = *reinterpret_cast<const Registered::Op*>(op);
  const bool linear = &self == &self.owner->linear;
  int64_t index = 0, rows = 0;
  if (OrtStatus* status = api->attribute(info, linear ? "matrix" : "block", &index)) return status;
  if (linear) {
    if (OrtStatus* status = api->attribute(info, "rows", &rows)) return status;
  }
  if (index < 0 || index > UINT32_MAX || rows < 0 || rows > UINT32_MAX) {
    return api->fail("ai.edgekit: an attribute is out of range");
  }
  std::string message;
  auto engine = engine_of(*self.owner, message);
  if (engine == nullptr) return api->fail(message.c_str());
  const int64_t hidden = engine->hidden;
  *out = new Kernel{api, std::move(engine), linear, static_cast<uint32_t>(index), linear ? rows : hidden};
  return nullptr;
}

// x [..., columns] -> out [..., rows]
OrtStatus* compute(void* self, OrtKernelContext* context) {
  const Kernel& k = *static_cast<Kernel*>(self);
  const OrtApi& api = *k.api;
  const OrtValue* x = nullptr;
  OrtTensorInfo* info = nullptr;
  if (OrtStatus* status = api.input(context, 0, &x)) return status;
  if (OrtStatus* status = api.tensor_info(x, &info)) return status;
  size_t rank = 0;
  OrtStatus* status = api.rank(info, &rank);
  std::vector<int64_t> shape(rank);
  if (status == nullptr) status = api.shape(info, shape.data(), rank);
  api.release_info(info);
  if (status != nullptr) return status;
  if (rank == 0) return api.fail("ai.edgekit: x must have a dimension");
  const int64_t columns = shape.back();
  uint64_t tokens = 1;
  for (size_t i = 0; i + 1 < rank; ++i) tokens *= static_cast<uint64_t>(shape[i]);
  shape.back() = k.rows;
  OrtValue* y = nullptr;
  void *in = nullptr, *out = nullptr;
  if ((status = api.output(context, 0, shape.data(), rank, &y)) != nullptr) return status;
  if ((status = api.data(const_cast<OrtValue*>(x), &in)) != nullptr) return status;
  if ((status = api.data(y, &out)) != nullptr) return status;
  edgekit_session* session = k.engine->session;
  if (!k.linear && columns != k.rows) {
    return api.fail("FlashFFN: the last dimension of x is not the bundle's hidden size");
  }
  for (uint64_t done = 0; done < tokens;) {
    const uint32_t n = static_cast<uint32_t>(std::min<uint64_t>(k.engine->max_batch, tokens - done));
    edgekit_error error{};
    const float* from = static_cast<const float*>(in) + done * static_cast<uint64_t>(columns);
    float* to = static_cast<float*>(out) + done * static_cast<uint64_t>(k.rows);
    const edgekit_status done_well =
        k.linear ? edgekit_session_linear(session, k.index, from, static_cast<uint32_t>(columns), n, to,
                                          static_cast<uint32_t>(k.rows), &error)
                 : edgekit_session_feed_forward(session, k.index, from, n, to, &error);
    if (done_well != EDGEKIT_OK) return api.fail(error.message);
    done += n;
  }
  return nullptr;
}

std::string configured(const OrtApi& api, const OrtSessionOptions* options, const char* key, const char* variable) {
  int there = 0;
  if (OrtStatus* status = api.has_config_entry(options, key, &there)) api.release_status(status);
  if (there != 0) {
    size_t size = 0;
    OrtStatus* status = api.config_entry(options, key, nullptr, &size);
    if (status != nullptr) api.release_status(status);
    std::string value(size, '\0');
    status = size > 0 ? api.config_entry(options, key, value.data(), &size) : nullptr;
    if (status != nullptr) api.release_status(status);
    return value.c_str();
  }
  const char* value = variable[0] != '\0' ? std::getenv(variable) : nullptr;
  return value != nullptr ? value : "";
}

// BUNDLE when this library lies in BUNDLE/artifacts/onnx-flash, where an export puts it; else empty.
std::string bundle_around() {
  Dl_info where{};
  if (dladdr(reinterpret_cast<const void*>(&bundle_around), &where) == 0 || where.dli_fname == nullptr) return "";
  std::string path = where.dli_fname;
  path = path.find('/') == std::string::npos ? "../.." : path.substr(0, path.rfind('/')) + "/../..";
  struct stat found{};
  return stat((path + "/manifest.json").c_str(), &found) == 0 ? path : "";
}

void declare(Registered::Op& declared, Registered* owner, const char* (*name)(const OrtCustomOp*)) {
  declared.owner = owner;
  OrtCustomOp& op = declared.op;
  op.version = kOrtApiVersion;
  op.name = name;
  op.provider = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.input_type = op.output_type = [](const OrtCustomOp*, size_t) { return kOrtFloat; };
  op.input_count = op.output_count = [](const OrtCustomOp*) -> size_t { return 1; };
  op.input_kind = op.output_kind = [](const OrtCustomOp*, size_t) { return kOrtRequired; };
  op.input_memory = [](const OrtCustomOp*, size_t) { return 0; };
  op.start_version = op.end_version = [](const OrtCustomOp*) { return 1; };
  op.create_kernel_v2 = create_kernel;
  op.compute_v2 = compute;
  op.destroy = [](void* self) { delete static_cast<Kernel*>(self); };
}

}  // namespace

extern "C" EDGEKIT_API OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->get_api(kOrtApiVersion);
  if (api == nullptr) return nullptr;  // older than 1.17: the operator stays unknown, and loading says so
  auto* r = new Registered;
  declare(r->ffn, r, [](const OrtCustomOp*) { return "FlashFFN"; });
  declare(r->linear, r, [](const OrtCustomOp*) { return "FlashLinear"; });
  r->bundle = configured(*api, options, "ai.edgekit.bundle", "EDGEKIT_BUNDLE");
  if (r->bundle.empty()) r->bundle = bundle_around();
  r->ram = configured(*api, options, "ai.edgekit.ram", "EDGEKIT_RAM");
  r->threads = configured(*api, options, "ai.edgekit.threads", "EDGEKIT_THREADS");
  r->select = configured(*api, options, "ai.edgekit.select", "EDGEKIT_SELECT");
  r->activations = configured(*api, options, "ai.edgekit.activations", "EDGEKIT_ACTIVATIONS");
  r->compute = configured(*api, options, "ai.edgekit.compute", "EDGEKIT_COMPUTE");
  r->id = configured(*api, options, "ai.edgekit.id", "");
  if (!r->id.empty()) {
    std::lock_guard<std::mutex> hold(named_mutex);
    named.push_back(r);
  }
  OrtCustomOpDomain* domain = nullptr;
  if (OrtStatus* status = api->create_domain("ai.edgekit", &domain)) return status;
  if (OrtStatus* status = api->add_op(domain, &r->ffn.op)) return status;
  if (OrtStatus* status = api->add_op(domain, &r->linear.op)) return status;
  return api->add_domain(options, domain);
}

// Counters and plan of the operators of the ONNX Runtime session with this id; both as in edgekit.h.
extern "C" EDGEKIT_API edgekit_status edgekit_onnx_stats(const char* id, edgekit_stats* stats, edgekit_plan* plan) {
  if (id == nullptr || stats == nullptr || plan == nullptr) return EDGEKIT_INVALID_ARGUMENT;
  std::lock_guard<std::mutex> hold(named_mutex);
  for (Registered* r : named) {
    if (r->id != id) continue;
    std::lock_guard<std::mutex> hold_engine(r->mutex);
    auto engine = r->engine.lock();
    if (engine == nullptr) return EDGEKIT_NOT_FOUND;
    const edgekit_status status = edgekit_session_stats(engine->session, stats, nullptr);
    return status != EDGEKIT_OK ? status : edgekit_model_plan(engine->model, plan, nullptr);
  }
  return EDGEKIT_NOT_FOUND;
}
