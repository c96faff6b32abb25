{{/*
The pod template of a component: (dict "root" $ "component" "partitions" | "control" "injected" bool).
"injected": Temporal's Worker Controller adds the credentials of Temporal by itself.
*/}}
{{- define "docbatch.podTemplate" -}}
{{- $root := .root }}
{{- $component := .component }}
{{- $values := .root.Values }}
{{- $own := index $values .component }}
{{- $processes := ternary (int $values.partitions.processes) 1 (eq $component "partitions") }}
{{- $mountCert := and $values.temporal.tls.existingSecret (not .injected) }}
metadata:
  labels:
    {{- include "docbatch.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
    {{- with $own.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # A changed setting rolls the pods.
    checksum/config: {{ include "docbatch.config" $root | sha256sum }}
    {{- with $own.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "docbatch.serviceAccountName" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # Outlasts the drain: calls in flight get graceSeconds, then answers are flushed and partitions handed back.
  terminationGracePeriodSeconds: {{ add $own.graceSeconds 30 }}
  securityContext:
    runAsNonRoot: true
    {{- range $name, $id := $values.podSecurityContext }}
    {{- if not (kindIs "invalid" $id) }}
    {{ $name }}: {{ int64 $id }}
    {{- end }}
    {{- end }}
    seccompProfile:
      type: RuntimeDefault
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with $own.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $own.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $own.topologySpread }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "docbatch.selectorLabels" $root | nindent 10 }}
          app.kubernetes.io/component: {{ $component }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  containers:
    - name: worker
      image: {{ include "docbatch.image" $root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        - worker
        - --poll={{ $component }}
        - --task-queue={{ $values.temporal.taskQueue }}
        - --metrics-port={{ $values.metricsPort }}
        - --grace-seconds={{ $own.graceSeconds }}
        - --log-level={{ $values.logLevel }}
        {{- if eq $component "partitions" }}
        - --processes={{ $processes }}
        - --slots={{ $own.slots }}
        - --heartbeat-throttle-seconds={{ $own.heartbeatThrottleSeconds }}
        {{- end }}
      securityContext:
        runAsNonRoot: true
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
        seccompProfile:
          type: RuntimeDefault
      envFrom:
        - configMapRef:
            name: {{ include "docbatch.fullname" $root }}
        {{- with $values.extraEnvFrom }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        {{- if $values.model.keyAsFile }}
        - name: OPENAI_API_KEY_FILE
          value: /etc/docbatch/model/key
        {{- else }}
        - name: OPENAI_API_KEY
          valueFrom:
            secretKeyRef:
              name: {{ $values.model.existingSecret }}
              key: {{ $values.model.key }}
        {{- end }}
        {{- with $values.s3.existingSecret }}
        - name: AWS_ACCESS_KEY_ID
          valueFrom:
            secretKeyRef:
              name: {{ . }}
              key: {{ $values.s3.accessKeyIdKey }}
        - name: AWS_SECRET_ACCESS_KEY
          valueFrom:
            secretKeyRef:
              name: {{ . }}
              key: {{ $values.s3.secretAccessKeyKey }}
        {{- end }}
        {{- if and $values.temporal.apiKey.existingSecret (not .injected) }}
        - name: TEMPORAL_API_KEY
          valueFrom:
            secretKeyRef:
              name: {{ $values.temporal.apiKey.existingSecret }}
              key: {{ $values.temporal.apiKey.key }}
        {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- range $process := until $processes }}
        - name: metrics{{ if $process }}-{{ $process }}{{ end }}
          containerPort: {{ add $values.metricsPort $process }}
          protocol: TCP
        {{- end }}
      startupProbe:
        httpGet: {path: /healthz, port: metrics}
        periodSeconds: 2
        timeoutSeconds: 10
        failureThreshold: 60
      readinessProbe:
        httpGet: {path: /healthz, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 10
      livenessProbe:
        httpGet: {path: /healthz, port: metrics}
        periodSeconds: 15
        # /healthz itself gives the event loop 5 s to answer.
        timeoutSeconds: 10
        failureThreshold: 6
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- if $values.model.keyAsFile }}
        - name: model-key
          mountPath: /etc/docbatch/model
          readOnly: true
        {{- end }}
        {{- if $mountCert }}
        - name: temporal-tls
          mountPath: /etc/temporal/tls
          readOnly: true
        {{- end }}
        {{- if $values.temporal.tls.caSecret }}
        - name: temporal-ca
          mountPath: /etc/temporal/ca
          readOnly: true
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: {{ $values.tmpSizeLimit }}
    {{- if $values.model.keyAsFile }}
    - name: model-key
      secret:
        secretName: {{ $values.model.existingSecret }}
        items:
          - key: {{ $values.model.key }}
            path: key
        defaultMode: 0440
    {{- end }}
    {{- if $mountCert }}
    - name: temporal-tls
      secret:
        secretName: {{ $values.temporal.tls.existingSecret }}
        defaultMode: 0440
    {{- end }}
    {{- with $values.temporal.tls.caSecret }}
    - name: temporal-ca
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
