#include "kernels/common/device.h"

#include <gtest/gtest.h>

namespace dga::kernels {
namespace {

TEST(Device, ListIsEmptyExactlyWhereAReasonIsGiven) {
  const DeviceList list = list_devices();
  EXPECT_EQ(list.devices.empty(), !list.why_none.empty());
}

TEST(Device, BuildWithoutCudaHasNoArchitecturesAndNoDevices) {
  EXPECT_EQ(built_with_cuda(), !compiled_architectures().empty());
  if (built_with_cuda()) GTEST_SKIP() << "built with CUDA";
  EXPECT_TRUE(list_devices().devices.empty());
  EXPECT_EQ(list_devices().why_none, "built without CUDA");
}

TEST(DeviceGpu, EveryVisibleDeviceIsDescribed) {
  const DeviceList list = list_devices();
  if (list.devices.empty()) GTEST_SKIP() << list.why_none;
  for (size_t i = 0; i < list.devices.size(); ++i) {
    const Device& device = list.devices[i];
    SCOPED_TRACE(device.name);
    EXPECT_EQ(device.index, static_cast<int>(i));
    EXPECT_FALSE(device.name.empty());
    EXPECT_GT(device.multiprocessors, 0);
    EXPECT_GT(device.memory_bytes, 0);
    EXPECT_LE(device.free_bytes, device.memory_bytes);
    EXPECT_GE(device.major, 7);
  }
}

// The default architectures are 80 and 90a: all of compute capability 8 and Hopper, nothing newer.
TEST(DeviceGpu, CodeIsReportedForTheArchitecturesItWasCompiledFor) {
  const DeviceList list = list_devices();
  if (list.devices.empty()) GTEST_SKIP() << list.why_none;
  if (compiled_architectures() != "80 90a") GTEST_SKIP() << "compiled for " << compiled_architectures();
  for (const Device& device : list.devices) {
    EXPECT_EQ(device.has_code, device.major == 8 || (device.major == 9 && device.minor == 0)) << device.name;
    EXPECT_EQ(device_has_code(device.index), device.has_code) << device.name;
  }
}

}  // namespace
}  // namespace dga::kernels
