module threenines/infra/tools/porcupine

go 1.26

tool threenines/infra/tools/porcupine

require github.com/anishathalye/porcupine v1.3.1
