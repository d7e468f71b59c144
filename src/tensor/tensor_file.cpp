#include "tensor/tensor_file.h"

#include <ATen/ATen.h>

#include "tensor/dtype.h"
#include "util/error.h"

namespace dga {

at::Tensor tensor_of_view(const TensorView& view) {
  const auto options = at::TensorOptions().dtype(dtype_of_safetensors(view.dtype));
  if (view.bytes.empty()) return at::empty(view.shape, options);
  // from_blob takes a mutable pointer; the mapping is read-only, so a write would end the process.
  return at::from_blob(const_cast<std::byte*>(view.bytes.data()), view.shape, options);
}

TensorView view_of_tensor(const at::Tensor& tensor) {
  DGA_CHECK(tensor.device().is_cpu() && tensor.is_contiguous(),
            "only contiguous CPU tensors have a view of their bytes");
  return {safetensors_name(tensor.scalar_type()),
          tensor.sizes().vec(),
          {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

SavedTensors as_saved(const NamedTensors& tensors) {
  SavedTensors saved;
  for (const auto& [name, tensor] : tensors) {
    saved[name] = {tensor.scalar_type(), tensor.sizes().vec(),
                   [flat = tensor.reshape({-1})](int64_t begin, int64_t end) { return flat.slice(0, begin, end); }};
  }
  return saved;
}

void write_tensors(const std::filesystem::path& path, const NamedTensors& tensors,
                   const std::map<std::string, std::string>& metadata) {
  std::map<std::string, TensorSource> sources;
  for (const auto& [name, tensor] : tensors) {
    sources[name] = {tensor.scalar_type(), tensor.sizes().vec(), [tensor = tensor] { return tensor; }};
  }
  write_tensors(path, sources, metadata);
}

void write_tensors(const std::filesystem::path& path, const std::map<std::string, TensorSource>& sources,
                   const std::map<std::string, std::string>& metadata) {
  std::map<std::string, TensorSpec> specs;
  for (const auto& [name, source] : sources) specs[name] = {safetensors_name(source.dtype), source.shape};
  SafetensorsWriter writer(path, specs, metadata);
  for (const auto& [name, source] : sources) {
    const at::Tensor tensor = source.make().detach().to(at::kCPU).contiguous();
    writer.write(view_of_tensor(tensor).bytes);
  }
  writer.close_synced();
}

NamedTensors read_tensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  NamedTensors tensors;
  for (const auto& [name, view] : file.tensors()) tensors.emplace(name, tensor_of_view(view).clone());
  return tensors;
}

}  // namespace dga
