#include "attention/token_buffer.h"

#include <ATen/ATen.h>

#include "util/error.h"

namespace dga {

void TokenBuffer::append(const at::Tensor& x) {
  const int64_t needed = size() + x.size(0);
  if (!storage_.defined() || end_ + x.size(0) > storage_.size(0)) {
    // Twice the need, so that a token is moved a bounded number of times.
    at::Tensor grown = at::empty({2 * needed, x.size(1), x.size(2)}, x.options());
    if (storage_.defined()) grown.narrow(0, 0, size()).copy_(tokens());
    end_ = size();
    begin_ = 0;
    storage_ = grown;
  }
  storage_.narrow(0, end_, x.size(0)).copy_(x);
  end_ += x.size(0);
}

void TokenBuffer::drop_front(int64_t count) {
  DGA_CHECK(count >= 0 && count <= size(), "cannot drop ", count, " of ", size(), " tokens");
  begin_ += count;
}

at::Tensor TokenBuffer::tokens() const { return storage_.narrow(0, begin_, size()); }

}  // namespace dga
