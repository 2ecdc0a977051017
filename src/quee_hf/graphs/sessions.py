"""Opening ONNX graphs with ONNX Runtime. Needs nothing else; what is deployed without PyTorch has a copy."""

import onnxruntime


def open_session(graph: bytes | str, num_threads: int) -> onnxruntime.InferenceSession:
    """Open a graph, or the file of one, on the CPU.

    Args:
        graph: An ONNX model, or a path.
        num_threads: That run an operator; 0 stands for one per core.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    # Threads of one session that wait by spinning keep those of the next from running. One pool for all
    # would be faster still, but with it no other session in this process could have threads of its own.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
