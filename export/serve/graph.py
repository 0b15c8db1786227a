"""What a model's graph may consist of: tensor arithmetic that ends, on shapes that its pixels do not choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from .errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

MAX_NODES = 20_000
"""onnxruntime takes seconds for so many, and minutes for five times as many."""
STANDARD = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BitShift
    BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Compress Concat Constant ConstantOfShape
    Conv ConvInteger ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Det Div Dropout
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
    HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul
    Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization Range Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    Relu Reshape Resize RotaryEmbedding Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size
    Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK
    Transpose Trilu Unsqueeze Upsample Where Xor
    """.split()  # noqa: SIM905  # as a list of literals it would be a page
)
"""Operators of ONNX. None holds a graph of its own, draws random numbers, reads a file or handles text."""
ONNXRUNTIME = frozenset(
    """
    Attention BiasGelu FastGelu FusedConv FusedGemm FusedMatMul Gelu MultiHeadAttention NhwcMaxPool QAttention QGemm
    QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean
    QLinearSigmoid QLinearSoftmax QuickGelu SkipLayerNormalization
    """.split()  # noqa: SIM905
)
"""Those of onnxruntime itself that its optimizer and quantizer write."""
ALLOWED = {"": STANDARD, "ai.onnx": STANDARD, "com.microsoft": ONNXRUNTIME}
SIZED = dict.fromkeys(("ConstantOfShape", "NonZero", "Range"), 0) | dict.fromkeys(
    """
    Compress Expand OneHot Pad ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Reshape Resize Slice Split Squeeze Tile TopK Unsqueeze Upsample
    """.split(),  # noqa: SIM905
    1,
)
"""Operators whose output has the shape that values of their inputs say, from this one on. Also where it cannot grow: by
``Shape`` it would become a number, and that the size of something else."""
GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def check_graph(model: Any, path: Path) -> None:
    """Refuse a graph that may never end, or grow with what is in a picture.

    Args:
        model: The onnx.ModelProto.
        path: Named in the error.

    Raises:
        BundleError: An operator is not on the lists above, a node holds a graph or comes before what it takes, or
            pixels decide on a size.
    """
    graph = model.graph
    if model.functions:
        raise _refused(path, f"functions of its own, such as {model.functions[0].name[:80]!r}", "plain operators")
    if len(graph.node) > MAX_NODES:
        raise _refused(path, f"{len(graph.node)} nodes", f"at most {MAX_NODES}")
    weights = {entry.name for entry in graph.initializer}  # which old files list among the inputs, too
    pixels = {entry.name for entry in graph.input} - weights  # and what is computed from their values
    unmade = {name for node in graph.node for name in node.output} - {""}  # what a node may leave out has no name
    for node in graph.node:
        if unmade.intersection(node.input):  # onnxruntime sorts nodes; what follows here takes them as they come
            raise _refused(path, f"the node {node.name[:80]!r} before what it takes", "nodes in the order they run in")
        unmade.difference_update(node.output)
        if node.op_type not in ALLOWED.get(node.domain, ()):
            name = f"{node.domain[:80]}.{node.op_type[:80]}" if node.domain else node.op_type[:80]
            raise _refused(path, f"the operator {name!r}", "operators that image classifiers are made of")
        if any(attribute.type in GRAPHS for attribute in node.attribute):
            raise _refused(path, f"a graph inside the node {node.name[:80]!r}", "plain operators")
        first = SIZED.get(node.op_type, len(node.input))
        if pixels.intersection(node.input[first:]):
            raise _refused(path, f"the node {node.name[:80]!r}, whose size depends on pixels", "sizes that do not")
        if node.op_type not in ("Shape", "Size") and pixels.intersection(node.input):
            pixels.update(filter(None, node.output))


def _refused(path: Path, found: str, expected: str) -> BundleError:
    return BundleError(
        f"The graph of {path} has {found}.", expected=expected, remedy="export the model again with genaf-sdk"
    )
