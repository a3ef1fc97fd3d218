// Reads by a pool of threads, each with one preadv at a time.
#include <pthread.h>

#include <condition_variable>
#include <mutex>

#include "io/async_reader.h"

namespace edgekit {

namespace {

class PoolEngine : public ReadEngine {
 public:
  ~PoolEngine() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    work_.notify_all();
    for (pthread_t id : threads_) pthread_join(id, nullptr);
  }

  Outcome start(uint32_t threads) {
    for (uint32_t i = 0; i < threads; ++i) {
      pthread_t id;
      if (pthread_create(&id, nullptr, thread_main, this) != 0) {
        return fail(EDGEKIT_NO_MEMORY, "cannot start a reader thread; lower io_threads");
      }
      threads_.push_back(id);
    }
    return Nothing{};
  }

  void submit(ReadOp* op) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(op);
    }
    work_.notify_one();
  }

  void reap(bool wait, std::vector<ReadOp*>& finished) override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (wait) done_.wait(lock, [&] { return !finished_.empty(); });
    finished.insert(finished.end(), finished_.begin(), finished_.end());
    finished_.clear();
  }

 private:
  static void* thread_main(void* self) {
    static_cast<PoolEngine*>(self)->loop();
    return nullptr;
  }

  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      work_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      ReadOp* op = queue_.front();
      queue_.pop_front();
      lock.unlock();
      read_rest(*op);
      lock.lock();
      finished_.push_back(op);
      done_.notify_one();
    }
  }

  std::vector<pthread_t> threads_;
  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<ReadOp*> queue_;
  std::vector<ReadOp*> finished_;
  bool stop_ = false;
};

}  // namespace

Result<std::unique_ptr<ReadEngine>> make_pool_engine(uint32_t threads) {
  std::unique_ptr<PoolEngine> out(new PoolEngine);
  EK_TRY(out->start(threads));
  return std::unique_ptr<ReadEngine>(std::move(out));
}

}  // namespace edgekit
