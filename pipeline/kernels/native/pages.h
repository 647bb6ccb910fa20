// Memory in pages of 2 MiB where the system has them, for weights that are read as fast as memory goes.

#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>

namespace packet_voice {

// For std::vector. What is smaller than a large page is allocated as usual.
template <class T>
struct LargePages {
  using value_type = T;

  LargePages() = default;
  template <class U>
  LargePages(const LargePages<U>&) {}

  T* allocate(size_t count) {
    const size_t bytes = count * sizeof(T);
    void* place = ::operator new(bytes, alignment(bytes));
    if (bytes >= LARGE) ::madvise(place, bytes / LARGE * LARGE, MADV_HUGEPAGE);  // refused where there are none
    return static_cast<T*>(place);
  }

  void deallocate(T* place, size_t count) { ::operator delete(place, alignment(count * sizeof(T))); }

  bool operator==(const LargePages&) const = default;

 private:
  static constexpr size_t LARGE = size_t(1) << 21;
  static std::align_val_t alignment(size_t bytes) { return std::align_val_t(bytes >= LARGE ? LARGE : 64); }
};

}  // namespace packet_voice
