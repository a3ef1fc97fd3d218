#include "io/async_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "edgekit/edgekit.h"

namespace edgekit {

namespace {
constexpr uint64_t kMostBytes = 1 << 20;  // of one read; devices split larger ones anyway
}

bool advance(ReadOp& op, int64_t got) {
  if (got < 0 && op.retries.again(static_cast<int>(-got))) return false;
  if (got == -EINVAL && op.file->fall_back(op.fd)) return false;
  if (got < 0) {
    op.error = fail(EDGEKIT_IO, "cannot read " + op.file->path() + ": " + std::strerror(static_cast<int>(-got)));
    return true;
  }
  op.retries.progress();
  const uint64_t before = op.done;
  op.done += static_cast<uint64_t>(got);
  if (op.done == op.bytes) return true;
  // A short read: go on behind it, from a sector boundary if the page cache is bypassed.
  if (op.file->direct()) op.done = op.done / 4096 * 4096;
  if (op.done > before) return false;
  op.error = fail(EDGEKIT_IO, op.file->path() + " ends too early; was it replaced or truncated?");
  return true;
}

void read_rest(ReadOp& op) {
  while (true) {
    iovec rest[ReadOp::kPieces];
    uint32_t n = 0;
    uint64_t skip = op.done;
    for (uint32_t i = 0; i < op.count; ++i) {
      const uint64_t size = op.pieces[i].iov_len;
      if (skip < size) {
        rest[n++] = {static_cast<uint8_t*>(op.pieces[i].iov_base) + skip, size - skip};
        skip = 0;
      } else {
        skip -= size;
      }
    }
    op.fd = op.file->fd();
    const ssize_t got = preadv(op.fd, rest, static_cast<int>(n), static_cast<off_t>(op.offset + op.done));
    if (advance(op, got < 0 ? -int64_t{errno} : int64_t{got})) return;
  }
}

AsyncReader::~AsyncReader() {
  std::vector<uint32_t> arrived, failed;
  while (!idle()) (void)reap(true, arrived, failed);
}

Outcome AsyncReader::start(uint32_t engine, uint32_t depth, uint32_t threads) {
  depth_ = depth;
  if (engine != EDGEKIT_IO_ENGINE_THREADS) engine_ = make_uring_engine(depth);
  uring_ = engine_ != nullptr;
  if (engine == EDGEKIT_IO_ENGINE_URING && !uring_) {
    return fail(EDGEKIT_UNSUPPORTED, "this system does not allow io_uring; use the engine 'threads', or 'auto'");
  }
  if (!uring_) {
    EK_ASSIGN(engine_, make_pool_engine(threads));
  }
  return Nothing{};
}

void AsyncReader::add(File& file, uint64_t offset, uint64_t bytes, uint8_t* to, uint32_t tag) {
  ReadOp* last = waiting_.empty() ? nullptr : waiting_.back();
  const bool follows = last != nullptr && last->file == &file && last->offset + last->bytes == offset &&
                       last->count < ReadOp::kPieces && last->bytes + bytes <= kMostBytes;
  if (!follows) {
    if (free_.empty()) {
      ops_.emplace_back(new ReadOp);
      free_.push_back(ops_.back().get());
    }
    last = free_.back();
    free_.pop_back();
    last->file = &file;
    last->offset = offset;
    last->bytes = last->done = 0;
    last->count = 0;
    last->error = Error{};
    last->retries = Retries{};
    waiting_.push_back(last);
  }
  last->pieces[last->count] = {to, bytes};
  last->tags[last->count++] = tag;
  last->bytes += bytes;
}

void AsyncReader::withdraw(const std::function<bool(uint32_t)>& unwanted, std::vector<uint32_t>& tags) {
  const auto gone = [&](ReadOp* op) {
    if (!std::all_of(op->tags, op->tags + op->count, unwanted)) return false;
    tags.insert(tags.end(), op->tags, op->tags + op->count);
    free_.push_back(op);
    return true;
  };
  waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(), gone), waiting_.end());
}

void AsyncReader::flush() {
  bool any = false;
  while (in_flight_ < depth_ && !waiting_.empty()) {
    engine_->submit(waiting_.front());
    waiting_.pop_front();
    ++in_flight_;
    ++operations_;
    any = true;
  }
  if (any) engine_->flush();
}

Outcome AsyncReader::reap(bool wait, std::vector<uint32_t>& arrived, std::vector<uint32_t>& failed) {
  flush();
  Error first;
  do {
    if (in_flight_ == 0) break;
    finished_.clear();
    engine_->reap(wait, finished_);
    for (ReadOp* op : finished_) {
      --in_flight_;
      const bool good = op->error.status == EDGEKIT_OK;
      if (good) op->file->count(op->bytes);
      if (!good && first.status == EDGEKIT_OK) first = op->error;
      auto& to = good ? arrived : failed;
      to.insert(to.end(), op->tags, op->tags + op->count);
      free_.push_back(op);
    }
    if (first.status != EDGEKIT_OK) {  // nothing more is started; what is under way must not write later
      withdraw([](uint32_t) { return true; }, failed);
      wait = true;
    } else {
      flush();
    }
  } while (first.status != EDGEKIT_OK);
  return first.status == EDGEKIT_OK ? Outcome(Nothing{}) : Outcome(first);
}

}  // namespace edgekit
