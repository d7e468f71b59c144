#include "data/line_reader.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <cerrno>
#include <cstring>

#include "util/error.h"

namespace dga {
namespace {

class PlainStream : public ByteStream {
 public:
  explicit PlainStream(const std::filesystem::path& path)
      : path_(path), descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    DGA_CHECK_INPUT(descriptor_ >= 0, "cannot open ", path.string(), ": ", std::strerror(errno));
    posix_fadvise(descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  ~PlainStream() override { close(descriptor_); }
  size_t read(std::span<char> buffer) override {
    ssize_t count = 0;
    do {
      count = ::read(descriptor_, buffer.data(), buffer.size());
    } while (count < 0 && errno == EINTR);
    DGA_CHECK_INPUT(count >= 0, "cannot read ", path_.string(), ": ", std::strerror(errno));
    return static_cast<size_t>(count);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_;
};

class ZstdStream : public ByteStream {
 public:
  explicit ZstdStream(const std::filesystem::path& path)
      : file_(path), context_(ZSTD_createDCtx(), ZSTD_freeDCtx), input_(ZSTD_DStreamInSize()) {
    DGA_CHECK(context_, "out of memory for a zstd context");
    ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound);
  }
  size_t read(std::span<char> buffer) override {
    ZSTD_outBuffer out{buffer.data(), buffer.size(), 0};
    while (out.pos == 0) {
      if (in_.pos == in_.size) {
        in_ = {input_.data(), file_.read(input_), 0};
        if (in_.size == 0) {
          if (frame_open_) throw DamagedFile("the zstd stream ends too early");
          return 0;
        }
      }
      const size_t result = ZSTD_decompressStream(context_.get(), &out, &in_);
      DGA_CHECK_INPUT(ZSTD_getErrorCode(result) != ZSTD_error_memory_allocation, "cannot read ", file_.path().string(),
                      ": out of memory for its zstd window");
      if (ZSTD_isError(result)) throw DamagedFile(str("damaged zstd stream: ", ZSTD_getErrorName(result)));
      frame_open_ = result != 0;
    }
    return out.pos;
  }

 private:
  PlainStream file_;
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context_;
  std::vector<char> input_;
  ZSTD_inBuffer in_{nullptr, 0, 0};
  bool frame_open_ = false;
};

class GzipStream : public ByteStream {
 public:
  explicit GzipStream(const std::filesystem::path& path) : file_(gzopen(path.c_str(), "rbe")) {
    DGA_CHECK_INPUT(file_ != nullptr, "cannot open ", path.string(), ": ", std::strerror(errno));
    gzbuffer(file_, 1 << 17);
  }
  ~GzipStream() override { gzclose(file_); }
  size_t read(std::span<char> buffer) override {
    // A call that meets damage returns nothing of what it had decoded, so calls are small.
    const int count = gzread(file_, buffer.data(), static_cast<unsigned>(std::min<size_t>(buffer.size(), 1 << 14)));
    int code = Z_OK;
    const char* text = gzerror(file_, &code);  // begins with the path
    DGA_CHECK_INPUT(code != Z_ERRNO && code != Z_MEM_ERROR, "cannot read ", text);
    if (count < 0 || code != Z_OK) throw DamagedFile(str("damaged gzip stream: ", text));
    if (gzdirect(file_) == 1 && count > 0) throw DamagedFile("is no gzip file");
    return static_cast<size_t>(count);
  }

 private:
  gzFile file_;
};

}  // namespace

std::unique_ptr<ByteStream> open_bytes(const std::filesystem::path& path) {
  if (path.extension() == ".zst") return std::make_unique<ZstdStream>(path);
  if (path.extension() == ".gz") return std::make_unique<GzipStream>(path);
  return std::make_unique<PlainStream>(path);
}

LineReader::LineReader(const std::filesystem::path& path, int64_t max_line_bytes, Unit unit)
    : bytes_(open_bytes(path)), max_line_bytes_(max_line_bytes), unit_(unit), buffer_(size_t{1} << 18) {}

LineReader::Result LineReader::append_next(std::string& text) {
  const size_t begin_of_line = text.size();
  ++line_;
  line_bytes_ = 0;
  bool started = false;
  while (true) {
    if (begin_ == end_) {
      begin_ = 0;
      end_ = bytes_->read(buffer_);
      if (end_ == 0) {
        if (!started) return Result::end;
        break;
      }
    }
    started = true;
    const char* from = buffer_.data() + begin_;
    const size_t available = end_ - begin_;
    const void* newline = unit_ == Unit::line ? std::memchr(from, '\n', available) : nullptr;
    const size_t count = newline ? static_cast<size_t>(static_cast<const char*>(newline) - from) : available;
    line_bytes_ += static_cast<int64_t>(count);
    if (line_bytes_ <= max_line_bytes_) {
      text.append(from, count);
    } else if (text.size() > begin_of_line) {
      text.resize(begin_of_line);
      if (text.capacity() > (size_t{1} << 20)) text.shrink_to_fit();
    }
    begin_ += count + (newline ? 1 : 0);
    if (newline) break;
  }
  return line_bytes_ <= max_line_bytes_ ? Result::line : Result::too_long;
}

}  // namespace dga
