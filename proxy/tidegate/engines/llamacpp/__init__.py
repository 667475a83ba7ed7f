"""The engine kind `llamacpp`: llama.cpp's own server, embedded by the wheel `xllamacpp`."""
