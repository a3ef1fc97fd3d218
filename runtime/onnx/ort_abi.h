// The part of ONNX Runtime's C ABI that a custom operator needs, declared from its published layout
// (onnxruntime_c_api.h; functions are only ever appended, so places in the table are fixed). No header
// of ONNX Runtime is needed to build, and no library to link: it hands its table over when it loads us.
#pragma once

#include <cstddef>
#include <cstdint>

constexpr uint32_t kOrtApiVersion = 17;  // ONNX Runtime 1.17 and later
enum OrtErrorCode : int { kOrtFail = 1 };
enum OrtElementType : int { kOrtFloat = 1 };
enum OrtCharacteristic : int { kOrtRequired = 0 };

struct OrtStatus;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtCustomOpDomain;
struct OrtSessionOptions;
struct OrtTensorInfo;
struct OrtCustomOp;

// The table, as an array of functions; `at` gives one its type.
struct OrtApi {
  void (*functions[288])();

  template <class Function>
  Function* at(size_t place) const {
    return reinterpret_cast<Function*>(functions[place]);
  }
  OrtStatus* fail(const char* message) const { return at<OrtStatus*(OrtErrorCode, const char*)>(0)(kOrtFail, message); }
  void release_status(OrtStatus* status) const { at<void(OrtStatus*)>(93)(status); }
  OrtStatus* create_domain(const char* name, OrtCustomOpDomain** out) const {
    return at<OrtStatus*(const char*, OrtCustomOpDomain**)>(26)(name, out);
  }
  OrtStatus* add_op(OrtCustomOpDomain* domain, const OrtCustomOp* op) const {
    return at<OrtStatus*(OrtCustomOpDomain*, const OrtCustomOp*)>(27)(domain, op);
  }
  OrtStatus* add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain) const {
    return at<OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)>(28)(options, domain);
  }
  // With `out` null only the size, its terminator included, is told.
  OrtStatus* config_entry(const OrtSessionOptions* options, const char* key, char* out, size_t* size) const {
    return at<OrtStatus*(const OrtSessionOptions*, const char*, char*, size_t*)>(238)(options, key, out, size);
  }
  OrtStatus* has_config_entry(const OrtSessionOptions* options, const char* key, int* out) const {
    return at<OrtStatus*(const OrtSessionOptions*, const char*, int*)>(237)(options, key, out);
  }
  OrtStatus* attribute(const OrtKernelInfo* info, const char* name, int64_t* out) const {
    return at<OrtStatus*(const OrtKernelInfo*, const char*, int64_t*)>(86)(info, name, out);
  }
  OrtStatus* input(const OrtKernelContext* context, size_t index, const OrtValue** out) const {
    return at<OrtStatus*(const OrtKernelContext*, size_t, const OrtValue**)>(90)(context, index, out);
  }
  OrtStatus* output(OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank, OrtValue** out) const {
    return at<OrtStatus*(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>(91)(context, index, shape,
                                                                                             rank, out);
  }
  OrtStatus* data(OrtValue* value, void** out) const { return at<OrtStatus*(OrtValue*, void**)>(51)(value, out); }
  OrtStatus* tensor_info(const OrtValue* value, OrtTensorInfo** out) const {
    return at<OrtStatus*(const OrtValue*, OrtTensorInfo**)>(65)(value, out);
  }
  OrtStatus* rank(const OrtTensorInfo* info, size_t* out) const {
    return at<OrtStatus*(const OrtTensorInfo*, size_t*)>(61)(info, out);
  }
  OrtStatus* shape(const OrtTensorInfo* info, int64_t* out, size_t rank) const {
    return at<OrtStatus*(const OrtTensorInfo*, int64_t*, size_t)>(62)(info, out, rank);
  }
  void release_info(OrtTensorInfo* info) const { at<void(OrtTensorInfo*)>(99)(info); }
};

struct OrtApiBase {
  const OrtApi* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

// What ONNX Runtime calls; entries that a version 17 operator may leave out are null.
struct OrtCustomOp {
  uint32_t version;
  void* (*create_kernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*name)(const OrtCustomOp*);
  const char* (*provider)(const OrtCustomOp*);
  OrtElementType (*input_type)(const OrtCustomOp*, size_t);
  size_t (*input_count)(const OrtCustomOp*);
  OrtElementType (*output_type)(const OrtCustomOp*, size_t);
  size_t (*output_count)(const OrtCustomOp*);
  void (*compute)(void*, OrtKernelContext*);
  void (*destroy)(void*);
  OrtCharacteristic (*input_kind)(const OrtCustomOp*, size_t);
  OrtCharacteristic (*output_kind)(const OrtCustomOp*, size_t);
  int (*input_memory)(const OrtCustomOp*, size_t);
  int (*variadic[4])(const OrtCustomOp*);
  OrtStatus* (*create_kernel_v2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
  OrtStatus* (*compute_v2)(void*, OrtKernelContext*);
  OrtStatus* (*infer_shape)(const OrtCustomOp*, void*);
  int (*start_version)(const OrtCustomOp*);
  int (*end_version)(const OrtCustomOp*);
  void* later[4];
};
