#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/launch_environment.h"

namespace c10d {
class Store;
}

namespace dga {

/// Texts under keys that all ranks of a run share. They lie in the process of rank 0, or of the launcher. A call is one
/// round trip and does not wait for keys; it throws an Error when the connection is lost, and hangs while the process
/// that holds the store stands still. Calls of several threads follow one after the other.
class SharedStore {
 public:
  /// Rank 0 opens the store at its port, the others connect, trying again until `limit`. Throws a config error that
  /// names address, port and reason.
  static std::unique_ptr<SharedStore> open(const LaunchEnvironment& place, std::chrono::milliseconds limit);
  ~SharedStore();

  void set(const std::string& key, const std::string& value);
  std::optional<std::string> find(const std::string& key);
  /// Sets the key unless it has a value; returns what it has now.
  std::string set_first(const std::string& key, const std::string& value);
  bool has_all(const std::vector<std::string>& keys);
  /// All of the keys must be there.
  std::vector<std::string> get_all(const std::vector<std::string>& keys);

  /// A connection of its own to the same store.
  std::unique_ptr<SharedStore> connect_again() const;
  const c10::intrusive_ptr<c10d::Store>& store() const { return store_; }

 private:
  explicit SharedStore(c10::intrusive_ptr<c10d::Store> store);
  c10::intrusive_ptr<c10d::Store> store_;
};

}  // namespace dga
