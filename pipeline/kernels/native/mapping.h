// Tensors of a file where the system maps it into memory: nothing is copied, and processes share the pages.

#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"

namespace packet_voice {

namespace mx = mlx::core;

// A file in memory for as long as this exists. Its pages are read when it is made, and written to never: what
// writes to an array of it gets a page of its own.
class Mapping {
 public:
  // Throws std::runtime_error with the system's message.
  explicit Mapping(const std::string& path);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  size_t size() const { return size_; }
  char* data() const { return data_; }

 private:
  size_t size_;
  char* data_;
  int region_;
};

// The path of a mapped file of which a part was not there when it was read, because it was cut short or its disk
// failed. Otherwise the system would end the process (SIGBUS). Its numbers are zeros from then on, so whoever computes
// with them has to ask before a result leaves.
std::optional<std::string> lost_file();

// The tensor whose numbers begin `offset` bytes into the file: float32, float16, bfloat16 or uint32, at a multiple
// of its size.
mx::array mapped(
    std::shared_ptr<const Mapping> mapping, size_t offset, const std::vector<int>& shape, const std::string& dtype);

// The same numbers row by row: the array itself where it is so already, also as a part of a larger one.
mx::array contiguous(const mx::array& values);

}  // namespace packet_voice
