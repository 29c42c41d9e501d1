// The element types that every op accepts, named across the border between the ops and the kernels.
#pragma once

namespace jacfast {

enum class Dtype { f32, f64, f16, bf16 };

}  // namespace jacfast
