#include "io/streamer.h"

#include <chrono>

namespace edgekit {

Streamer::~Streamer() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  for (pthread_t id : threads_) pthread_join(id, nullptr);
}

Outcome Streamer::start(Bundle& bundle, Budget& budget, uint32_t slots, uint64_t slot_bytes, uint32_t threads) {
  bundle_ = &bundle;
  slot_bytes_ = slot_bytes;
  EK_ASSIGN(ring_, Buffer::allocate(budget, slots * slot_bytes, "read-ahead buffer"));
  slots_.resize(slots);
  for (uint32_t i = 0; i < threads; ++i) {
    pthread_t id;
    if (pthread_create(&id, nullptr, thread_main, this) != 0) {
      return fail(EDGEKIT_NO_MEMORY, "cannot start a reader thread; lower io_threads");
    }
    threads_.push_back(id);
  }
  return Nothing{};
}

void* Streamer::thread_main(void* self) {
  static_cast<Streamer*>(self)->read_loop();
  return nullptr;
}

void Streamer::read_loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    work_.wait(lock, [&] { return stop_ || (!queue_.empty() && claimed_ < released_ + slots_.size()); });
    if (stop_) return;
    const Chunk chunk = queue_.front();
    queue_.pop_front();
    const size_t at = claimed_++ % slots_.size();
    ++reading_;
    slots_[at].ready = false;
    slots_[at].error = Error{};
    lock.unlock();
    auto outcome =
        bundle_->read_units(bundle_->matrix(chunk.matrix), chunk.unit, chunk.count, ring_.data() + at * slot_bytes_);
    lock.lock();
    --reading_;
    slots_[at].ready = true;
    if (!outcome.ok()) slots_[at].error = outcome.error();
    done_.notify_all();
  }
}

void Streamer::push(Chunk chunk) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(chunk);
  }
  work_.notify_one();
}

void Streamer::clear() {
  std::unique_lock<std::mutex> lock(mutex_);
  queue_.clear();
  done_.wait(lock, [&] { return reading_ == 0; });
  acquired_ = released_ = claimed_;
}

Result<const uint8_t*> Streamer::acquire() {
  std::unique_lock<std::mutex> lock(mutex_);
  const size_t at = acquired_ % slots_.size();
  const auto arrived = [&] { return claimed_ > acquired_ && slots_[at].ready; };
  if (!arrived()) {
    const auto begin = std::chrono::steady_clock::now();
    done_.wait(lock, arrived);
    wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  if (slots_[at].error.status != EDGEKIT_OK) return slots_[at].error;
  ++acquired_;
  return const_cast<const uint8_t*>(ring_.data() + at * slot_bytes_);
}

void Streamer::release() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++released_;
    slots_[(released_ - 1) % slots_.size()].ready = false;
  }
  work_.notify_one();
}

}  // namespace edgekit
