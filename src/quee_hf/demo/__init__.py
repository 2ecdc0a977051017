"""The demo: what `quee demo` shows. Only `quee_hf.demo.app` needs Gradio."""
