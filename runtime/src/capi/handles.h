// What the files of the C ABI share: the handles, and how errors leave.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>

#include "edgekit/edgekit.h"
#include "model/engine.h"

struct edgekit_model {
  std::unique_ptr<edgekit::Model> model;
};
struct edgekit_session {
  std::unique_ptr<edgekit::Session> session;
};

namespace edgekit {

inline edgekit_status report(const Error& from, edgekit_error* error) {
  if (error != nullptr) {
    error->status = from.status;
    const size_t n = std::min(from.message.size(), sizeof(error->message) - 1);
    std::memcpy(error->message, from.message.data(), n);
    error->message[n] = '\0';
  }
  return from.status;
}

inline edgekit_status invalid(const char* what, edgekit_error* error) {
  return report(fail(EDGEKIT_INVALID_ARGUMENT, what), error);
}

}  // namespace edgekit
