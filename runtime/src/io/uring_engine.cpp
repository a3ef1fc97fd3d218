// Reads through io_uring, by its system calls alone: two rings shared with the kernel, no library.
#include "io/async_reader.h"

#if defined(__linux__) && __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

namespace edgekit {

namespace {

template <class T>
T load_acquire(const T* at) {
  return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}
template <class T>
void store_release(T* at, T value) {
  __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

class UringEngine : public ReadEngine {
 public:
  ~UringEngine() override {
    if (sqes_ != nullptr) munmap(sqes_, sqes_bytes_);
    if (ring_ != nullptr) munmap(ring_, ring_bytes_);
    if (fd_ >= 0) close(fd_);
  }

  bool start(uint32_t depth) {
    io_uring_params p;
    std::memset(&p, 0, sizeof(p));
    fd_ = static_cast<int>(syscall(__NR_io_uring_setup, depth, &p));
    if (fd_ < 0 || (p.features & IORING_FEAT_SINGLE_MMAP) == 0) return false;
    const uint64_t sq = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
    const uint64_t cq = p.cq_off.cqes + p.cq_entries * sizeof(io_uring_cqe);
    ring_bytes_ = sq > cq ? sq : cq;
    sqes_bytes_ = p.sq_entries * sizeof(io_uring_sqe);
    ring_ = map(ring_bytes_, IORING_OFF_SQ_RING);
    sqes_ = static_cast<io_uring_sqe*>(static_cast<void*>(map(sqes_bytes_, IORING_OFF_SQES)));
    if (ring_ == nullptr || sqes_ == nullptr) return false;
    sq_tail_ = at(p.sq_off.tail);
    sq_mask_ = *at(p.sq_off.ring_mask);
    sq_array_ = at(p.sq_off.array);
    cq_head_ = at(p.cq_off.head);
    cq_tail_ = at(p.cq_off.tail);
    cq_mask_ = *at(p.cq_off.ring_mask);
    cqes_ = reinterpret_cast<io_uring_cqe*>(ring_ + p.cq_off.cqes);
    return true;
  }

  // The reader keeps no more under way than the ring has entries, so there is always room.
  void submit(ReadOp* op) override {
    const uint32_t tail = *sq_tail_, index = tail & sq_mask_;
    io_uring_sqe& sqe = sqes_[index];
    std::memset(&sqe, 0, sizeof(sqe));
    const bool single = op->count == 1 && op->pieces[0].iov_len <= UINT32_MAX;
    sqe.opcode = single ? IORING_OP_READ : IORING_OP_READV;
    sqe.fd = op->fd = op->file->fd();
    sqe.addr = reinterpret_cast<uint64_t>(single ? op->pieces[0].iov_base : op->pieces);
    sqe.len = single ? static_cast<uint32_t>(op->pieces[0].iov_len) : op->count;
    sqe.off = op->offset;
    sqe.user_data = reinterpret_cast<uint64_t>(op);
    sq_array_[index] = index;
    store_release(sq_tail_, tail + 1);
    unsent_.push_back(op);
  }

  void flush() override {
    Retries retries;
    while (!unsent_.empty()) send(0, retries);
  }

  void reap(bool wait, std::vector<ReadOp*>& finished) override {
    finished.insert(finished.end(), done_here_.begin(), done_here_.end());
    wait = wait && done_here_.empty();
    done_here_.clear();
    // Reads that the kernel has taken arrive whether or not it lets this thread wait for them, and until then
    // it writes to their memory: so they are awaited, by looking now and then when waiting is refused.
    Retries retries;
    while (wait && *cq_head_ == load_acquire(cq_tail_) && done_here_.empty()) {
      if (send(1, retries)) continue;
      const timespec moment{0, 1000000};
      nanosleep(&moment, nullptr);
    }
    finished.insert(finished.end(), done_here_.begin(), done_here_.end());
    done_here_.clear();
    uint32_t head = *cq_head_;
    const uint32_t tail = load_acquire(cq_tail_);
    for (; head != tail; ++head) {
      const io_uring_cqe& cqe = cqes_[head & cq_mask_];
      ReadOp* op = reinterpret_cast<ReadOp*>(cqe.user_data);
      if (!advance(*op, cqe.res)) read_rest(*op);
      finished.push_back(op);
    }
    store_release(cq_head_, head);
  }

 private:
  // Gives the kernel what is unsent, or reads it here when the kernel goes on refusing. Returns whether the kernel
  // answered.
  bool send(uint32_t wait, Retries& retries) {
    const uint32_t flags = wait != 0 ? IORING_ENTER_GETEVENTS : 0;
    const long sent = syscall(__NR_io_uring_enter, fd_, unsent_.size(), wait, flags, nullptr, 0);
    if (sent > 0) unsent_.erase(unsent_.begin(), unsent_.begin() + sent);
    if (sent > 0 || (sent == 0 && unsent_.empty())) return true;
    if (!refused_ && retries.again(sent == 0 ? EAGAIN : errno)) return true;
    refused_ = true;  // later calls do not wait for it again
    // The kernel takes no more: what it did not take is read without it.
    store_release(sq_tail_, *sq_tail_ - static_cast<uint32_t>(unsent_.size()));
    for (ReadOp* op : unsent_) {
      read_rest(*op);
      done_here_.push_back(op);
    }
    unsent_.clear();
    return false;
  }
  uint8_t* map(uint64_t bytes, uint64_t what) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, static_cast<off_t>(what));
    return at == MAP_FAILED ? nullptr : static_cast<uint8_t*>(at);
  }
  uint32_t* at(uint32_t offset) { return reinterpret_cast<uint32_t*>(ring_ + offset); }

  int fd_ = -1;
  bool refused_ = false;
  uint8_t* ring_ = nullptr;
  io_uring_sqe* sqes_ = nullptr;
  uint64_t ring_bytes_ = 0, sqes_bytes_ = 0;
  uint32_t *sq_tail_ = nullptr, *sq_array_ = nullptr, *cq_head_ = nullptr, *cq_tail_ = nullptr;
  uint32_t sq_mask_ = 0, cq_mask_ = 0;
  std::vector<ReadOp*> unsent_, done_here_;
  io_uring_cqe* cqes_ = nullptr;
};

}  // namespace

std::unique_ptr<ReadEngine> make_uring_engine(uint32_t depth) {
  std::unique_ptr<UringEngine> out(new UringEngine);
  if (!out->start(depth)) return nullptr;
  return out;
}

}  // namespace edgekit

#else

namespace edgekit {
std::unique_ptr<ReadEngine> make_uring_engine(uint32_t) { return nullptr; }
}  // namespace edgekit

#endif
