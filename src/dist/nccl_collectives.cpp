#include <ATen/ATen.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "dist/collectives.h"
#include "dist/rank_group.h"
#include "kernels/sum_parts.h"
#include "util/error.h"
#include "util/log.h"

namespace dga {
namespace {

/// How long the thread that aborts waits for the main thread to leave NCCL, which must not be freed under it.
constexpr auto kAbortPatience = std::chrono::seconds(3);

ncclDataType_t nccl_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kBFloat16:
      return ncclBfloat16;
    case at::kInt:
      return ncclInt32;
    case at::kLong:
      return ncclInt64;
    default:
      fail(ExitCode::failure, "collectives take fp32, fp64, bf16, int32 and int64, not ", tensor.dtype().name());
  }
}

/// NVLink's multicast (NVLS) needs a fabric manager that lets the process bind multicast memory; where a container or a
/// shared host does not, NCCL fails or hangs at its start. What it would gain is small beside that.
void leave_multicast_off() { setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0); }

/// What NcclCollectives shares with the watch's threads.
struct NcclState {
  NcclState(c10::Device the_device, FailureBoard& the_board)
      : device(the_device),
        board(the_board),
        stream(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, the_device.index())) {}

  const c10::Device device;
  FailureBoard& board;
  const c10::cuda::CUDAStream stream;
  at::cuda::CUDAEvent start;  // the current stream, up to a collective's begin; used anew by each
  std::timed_mutex mutex;     // held within NCCL
  ncclComm_t comm = nullptr;  // null before it is made and after it was aborted
  struct End {
    int64_t number;
    std::shared_ptr<at::cuda::CUDAEvent> event;
  };
  std::deque<End> pending;  // collectives, in order
  std::atomic<int64_t> allocated_bytes = 0;

  /// Notes collectives that the device has finished; returns what NCCL noticed in the background, if anything.
  std::string poll();
  void abort();
};

std::string NcclState::poll() {
  const std::unique_lock lock(mutex, std::try_to_lock);
  if (!lock.owns_lock() || comm == nullptr) return "";
  const c10::cuda::CUDAGuard guard(device);
  try {
    for (; !pending.empty() && pending.front().event->query(); pending.pop_front()) board.end(pending.front().number);
  } catch (const std::exception&) {
    return "";  // the device has failed; the main thread learns it from the device
  }
  ncclResult_t result = ncclSuccess;
  ncclCommGetAsyncError(comm, &result);
  if (result == ncclSuccess || result == ncclInProgress) return "";
  return str("NCCL: ", ncclGetErrorString(result), ", ", ncclGetLastError(comm));
}

void NcclState::abort() {
  const std::unique_lock lock(mutex, kAbortPatience);
  if (!lock.owns_lock() || comm == nullptr) return;
  ncclCommAbort(std::exchange(comm, nullptr));
}

/// Memory that NCCL knows on all ranks, so that copy engines reach it from the other GPUs of the host.
class NcclMemory {
 public:
  /// Throws if the device has too little. Where NCCL cannot register memory it is as good as any other.
  NcclMemory(std::shared_ptr<NcclState> state, size_t bytes) : state_(std::move(state)), bytes_(bytes) {
    const c10::cuda::CUDAGuard guard(state_->device);
    ncclResult_t result = ncclMemAlloc(&address_, bytes);
    if (result != ncclSuccess) {  // LibTorch may hold what is free
      c10::cuda::CUDACachingAllocator::emptyCache();
      result = ncclMemAlloc(&address_, bytes);
    }
    if (result != ncclSuccess) {
      fail(ExitCode::failure, "no ", bytes >> 20,
           " MiB of GPU memory for what the ranks exchange: NCCL: ", ncclGetErrorString(result), ", ",
           ncclGetLastError(nullptr));
    }
    const int64_t number = state_->board.begin("the registration of memory");
    {
      const std::lock_guard lock(state_->mutex);
      if (state_->comm != nullptr) {
        result = ncclCommWindowRegister(state_->comm, address_, bytes, &window_, NCCL_WIN_COLL_SYMMETRIC);
      }
    }
    state_->board.end(number);
    if (result != ncclSuccess) {
      log::warning("NCCL does not register memory (", ncclGetErrorString(result), "), so kernels exchange it");
    }
    state_->allocated_bytes += static_cast<int64_t>(bytes);
  }
  NcclMemory(const NcclMemory&) = delete;
  NcclMemory& operator=(const NcclMemory&) = delete;
  /// In a run that has failed the device may hang in a collective; the memory goes with the process.
  ~NcclMemory() {
    if (state_->board.failure()) return;
    try {
      const c10::cuda::CUDAGuard guard(state_->device);
      cudaDeviceSynchronize();  // its last users
      const std::lock_guard lock(state_->mutex);
      if (window_ != nullptr && state_->comm != nullptr) ncclCommWindowDeregister(state_->comm, window_);
      ncclMemFree(address_);
      state_->allocated_bytes -= static_cast<int64_t>(bytes_);
    } catch (const std::exception&) {  // the device has failed
    }
  }
  void* address() const { return address_; }

 private:
  std::shared_ptr<NcclState> state_;
  size_t bytes_;
  void* address_ = nullptr;
  ncclWindow_t window_ = nullptr;
};

class NcclPending final : public PendingCollective {
 public:
  NcclPending(std::shared_ptr<NcclState> state, std::shared_ptr<at::cuda::CUDAEvent> end,
              std::vector<at::Tensor> tensors)
      : state_(std::move(state)), end_(std::move(end)), tensors_(std::move(tensors)) {}

  /// The memory of the tensors may be used anew by later work of the current stream only after the collective.
  ~NcclPending() override {
    if (waited_ || state_->board.failure()) return;
    try {
      end_->block(c10::cuda::getCurrentCUDAStream(state_->device.index()));
    } catch (const std::exception&) {  // the device has failed; its memory goes with the process
    }
  }

  void wait() override {
    state_->board.check();
    end_->block(c10::cuda::getCurrentCUDAStream(state_->device.index()));
    waited_ = true;
  }

 private:
  std::shared_ptr<NcclState> state_;
  std::shared_ptr<at::cuda::CUDAEvent> end_;
  std::vector<at::Tensor> tensors_;  // kept alive
  bool waited_ = false;
};

class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(RankGroup& ranks, c10::Device device)
      : ranks_(ranks), state_(std::make_shared<NcclState>(device, ranks.watch()->board())) {
    leave_multicast_off();
    const c10::cuda::CUDAGuard guard(device);
    ncclUniqueId id{};
    if (ranks.rank() == 0) require(ncclGetUniqueId(&id), "ncclGetUniqueId");
    const std::string bytes = ranks.exchange("NCCL's id", std::string(id.internal, sizeof(id.internal)))[0];
    std::memcpy(id.internal, bytes.data(), sizeof(id.internal));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    // A matrix product that finds a few multiprocessors taken waits for them with the whole of its last tiles.
    if (ranks.place().is_one_host()) config.CTAPolicy = NCCL_CTA_POLICY_ZERO;
    ncclComm_t comm = nullptr;
    require(ncclCommInitRankConfig(&comm, static_cast<int>(ranks.world_size()), id, static_cast<int>(ranks.rank()),
                                   &config),
            "NCCL's start");
    state_->comm = comm;
    ranks.watch()->set_hooks({[state = state_] { return state->poll(); }, [state = state_] { state->abort(); }});
  }

  ~NcclCollectives() override {
    received_.reset();              // while NCCL still knows it
    ranks_.watch()->set_hooks({});  // waits for one that runs
    const std::lock_guard lock(state_->mutex);
    if (state_->comm == nullptr) return;
    ncclComm_t comm = std::exchange(state_->comm, nullptr);
    if (ranks_.watch()->board().failure()) {
      ncclCommAbort(comm);
    } else {
      ncclCommDestroy(comm);
    }
  }

  at::Tensor allocate(int64_t count, const at::TensorOptions& options) override {
    if (!ranks_.place().is_one_host()) return at::zeros({count}, options);
    const size_t bytes = static_cast<size_t>(count) * options.dtype().itemsize();
    auto memory = std::make_shared<NcclMemory>(state_, bytes);
    void* address = memory->address();
    const auto release = [held = std::move(memory)](void*) mutable { held.reset(); };
    return at::from_blob(address, {count}, release, options, state_->device).zero_();
  }
  int64_t allocated_bytes() const override { return state_->allocated_bytes; }

  std::unique_ptr<PendingCollective> all_reduce(const at::Tensor& numbers, Reduction reduction) override {
    const ncclRedOp_t operation = reduction == Reduction::sum ? ncclSum : ncclMax;
    return begin("all_reduce", {numbers}, [&](ncclComm_t comm, cudaStream_t stream) {
      return ncclAllReduce(numbers.data_ptr(), numbers.data_ptr(), static_cast<size_t>(numbers.numel()),
                           nccl_type(numbers), operation, comm, stream);
    });
  }

  std::unique_ptr<PendingCollective> reduce_scatter(const at::Tensor& output, const at::Tensor& input) override {
    if (input.scalar_type() != output.scalar_type()) return sum_widened(output, input);
    return begin("reduce_scatter", {output, input}, [&](ncclComm_t comm, cudaStream_t stream) {
      return ncclReduceScatter(input.data_ptr(), output.data_ptr(), static_cast<size_t>(output.numel()),
                               nccl_type(output), ncclSum, comm, stream);
    });
  }

  std::unique_ptr<PendingCollective> all_gather(const at::Tensor& output, const at::Tensor& input) override {
    return begin("all_gather", {output, input}, [&](ncclComm_t comm, cudaStream_t stream) {
      return ncclAllGather(input.data_ptr(), output.data_ptr(), input.nbytes(), ncclUint8, comm, stream);
    });
  }

 private:
  /// Within a host the ranks send each other what they have and add it up themselves: half the bytes of a sum in fp32,
  /// and no copy of the input. Between hosts that would go through the network once a rank instead of once a host.
  std::unique_ptr<PendingCollective> sum_widened(const at::Tensor& output, const at::Tensor& input) {
    const bool one_host = ranks_.place().is_one_host();
    if (one_host && (!received_.defined() || received_.numel() < input.numel())) {
      received_ = allocate(input.numel(), input.options());
    }
    return begin("reduce_scatter", {output, input}, [&](ncclComm_t comm, cudaStream_t stream) {
      const auto count = static_cast<size_t>(output.numel());
      if (!one_host) {
        const at::NoGradGuard no_grad;
        const c10::cuda::CUDAStreamGuard guard(state_->stream);
        const at::Tensor wide = input.to(output.scalar_type());
        return ncclReduceScatter(wide.data_ptr(), output.data_ptr(), count, nccl_type(output), ncclSum, comm, stream);
      }
      const ncclResult_t result =
          ncclAlltoAll(input.data_ptr(), received_.data_ptr(), count, nccl_type(input), comm, stream);
      if (result == ncclSuccess) {
        kernels::sum_parts({.parts = received_.data_ptr(),
                            .part_count = ranks_.world_size(),
                            .count = output.numel(),
                            .sum = output.data_ptr<float>()},
                           stream);
      }
      return result;
    });
  }

  template <class Call>
  std::unique_ptr<PendingCollective> begin(const char* name, std::vector<at::Tensor> tensors, const Call& call) {
    DGA_CHECK(tensors[0].device() == state_->device, "a rank has one GPU, ", state_->device.str(), ", not ",
              tensors[0].device().str());
    const c10::cuda::CUDAGuard guard(state_->device);
    const auto end = std::make_shared<at::cuda::CUDAEvent>();
    ncclResult_t result = ncclSuccess;
    {
      const std::lock_guard lock(state_->mutex);
      const int64_t number = state_->board.begin(name);  // throws after a failure, so comm is there
      state_->start.record(c10::cuda::getCurrentCUDAStream(state_->device.index()));
      state_->start.block(state_->stream);
      result = call(state_->comm, state_->stream.stream());
      end->record(state_->stream);
      state_->pending.push_back({number, end});
    }
    require(result, name);
    return std::make_unique<NcclPending>(state_, end, std::move(tensors));
  }

  /// A wrong call is reported as it is; anything else may come from a rank that is gone.
  void require(ncclResult_t result, const char* what) const {
    if (result == ncclSuccess) return;
    const std::string text = str(what, ": NCCL: ", ncclGetErrorString(result), ", ", ncclGetLastError(nullptr));
    if (result == ncclInvalidArgument || result == ncclInvalidUsage) fail(ExitCode::failure, text);
    ranks_.watch()->throw_reason_of(text);
  }

  RankGroup& ranks_;
  std::shared_ptr<NcclState> state_;
  at::Tensor received_;  // from all ranks; the next collective of the stream may overwrite it
};

}  // namespace

std::unique_ptr<Collectives> make_nccl_collectives(RankGroup& ranks, c10::Device device) {
  return std::make_unique<NcclCollectives>(ranks, device);
}

}  // namespace dga
